"""Every AnnData key that Perturbia writes, named here and nowhere else."""

from __future__ import annotations

# written by pp.encode_perturbations
OBSM_DESIGN = "perturbation"
UNS_DESIGN = "perturbation"
OBS_N = "perturbation_n"
OBS_CONTROL = "is_control"

# written by model registration
OBSM_DOSAGE = "_perturbia_dosage"
PERTURBATION = "perturbation"  # scvi registry key
# the form in which minibatches carry it: rows of a table of treatments, and doses, both (n_cells, n_slots)
TREATMENT_INDEX = "treatment_index"
TREATMENT_DOSE = "treatment_dose"

# written by tl.split; its values
OBS_SPLIT = "pb_split"
SPLIT_VALUES = ("train", "valid", "test")

# written by tl.responders; its values, and what is appended for the column of probabilities
OBS_RESPONDER = "pb_responder"
RESPONDER_VALUES = ("control", "responder", "non-responder")
SUFFIX_PROBABILITY = "_probability"

# written by minification: what scvi-tools reads, and whose latents they are
OBSM_LATENT_MEAN = "perturbia_latent_qzm"
OBSM_LATENT_VARIANCE = "perturbia_latent_qzv"
OBS_OBSERVED_LIBRARY = "observed_lib_size"
UNS_MINIFY_TYPE = "_scvi_adata_minify_type"
UNS_MINIFIED = "perturbia_minified"

# columns, layers and metadata of model results
OBS_PERTURBATION = "pb_perturbation"
OBS_DRAW = "pb_draw"
OBS_SOURCE = "pb_source"
OBS_LIBRARY = "pb_library"
OBS_CONTEXT = "pb_context"
OBSM_GIVEN = "pb_dosage"  # what perturb gave to cells, where it acts on more than their latents
LAYER_SD = "sd"
LAYER_SE = "se"
LAYER_LOWER = "lower"
LAYER_UPPER = "upper"
UNS_RESULT = "perturbia"

# written by tl.mechanisms, when asked for
VARM_LOADINGS = "loadings"
UNS_FEATURES = "features"
UNS_ENRICHMENT = "enrichment"

# written by simulators; the values of groups
UNS_TRUTH = "truth"
OBSM_TRUTH_BASAL = "truth_basal"
OBSM_TRUTH_LATENT = "truth_latent"
OBSM_TRUTH_SHARED = "truth_shared"
OBSM_TRUTH_SALIENT = "truth_salient"
LAYER_TRUTH_MEAN = "truth_mean"
OBSM_TRUTH_NOISE = "truth_noise"
OBSM_TRUTH_LOG_RATIO = "truth_log_ratio"
OBSM_TRUTH_POSITION = "truth_position"
UNS_IMAGE_SHAPE = "image_shape"
OBS_PAIR = "pair"  # also in the paired screens of the package
OBS_HELD_OUT = "held_out"
OBS_GROUP = "group"
GROUP_VALUES = ("background", "target")

# written by loaders of public screens
UNS_SOURCE = "source"

# written by aligners of modalities; appended to the key of an alignment for columns of cells
OBS_SHARED_LABEL = "_perturbia_label"
OBSM_PROPENSITY = "X_psa"
OBSM_CROSS_MODAL = "X_cross_modal"
COUPLING = "coupling"
SUFFIX_N_EFFECTIVE = "_n_eff"
SUFFIX_COST = "_cost"
SUFFIX_HUBNESS = "_hubness"

# written by tools of maps: aligned profiles, perturbations and their relations
OBSM_STANDARDIZED = "X_standardized"
OBSM_TVN = "X_tvn"
OBSM_SPHERIZED = "X_spherized"
OBSM_PROXIMITY = "X_proximity"
OBS_CURATED = "curated"
OBS_N_OBS = "n_obs"
OBS_N_BATCHES = "n_batches"
LAYER_SEM = "sem"
OBSP_COSINE = "cosine"
UNS_BLOCK_SEARCH = "block_search"
OBS_COMPLEX = "complex"

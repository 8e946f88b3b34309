"""Files of public screens: where they are, how large they are, and by which checksum they are known."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BASE_URL", "LICENCE", "NORMAN", "PAPALEXI_PROTEIN", "PAPALEXI_RNA", "RECORD", "REPLOGLE", "ScreenFile"]

# scPerturb (Peidli 2024), version 1.4 of its RNA and protein data, doi:10.5281/zenodo.13350497
BASE_URL = "https://zenodo.org"
RECORD = "13350497"
LICENCE = "CC-BY-4.0"


@dataclass(frozen=True)
class ScreenFile:
    """A file of the record.

    Attributes
    ----------
    name
        Its name, there and in the cache.
    size
        Bytes.
    md5
        Checksum that the record states for it.
    """

    name: str
    size: int
    md5: str

    @property
    def path(self) -> str:
        """Path of the download below the base URL."""
        return f"/records/{RECORD}/files/{self.name}?download=1"

    @property
    def record_path(self) -> str:
        """Path of the description of the record below the base URL."""
        return f"/api/records/{RECORD}"


# Sizes and checksums as independent public projects quote them from the record: two or more for each but the RNA of
# Papalexi, which one quotes.
NORMAN = ScreenFile("NormanWeissman2019_filtered.h5ad", 698_680_199, "c870e6967d91c017d9da827bab183cd6")
REPLOGLE = ScreenFile("ReplogleWeissman2022_K562_essential.h5ad", 1_546_729_675, "d8cba17576d1a8afc0f7d71b79cad0f7")
PAPALEXI_RNA = ScreenFile("PapalexiSatija2021_eccite_RNA.h5ad", 147_215_278, "d9e8bfe20b0e7b0919be042e8fcf6d03")
PAPALEXI_PROTEIN = ScreenFile("PapalexiSatija2021_eccite_protein.h5ad", 1_191_551, "07290242b0e835c9474bb816de9cda45")

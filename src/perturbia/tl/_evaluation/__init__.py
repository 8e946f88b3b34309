"""What `perturbia.tl.evaluate` is made of: the judged screen, its truth, predictions, measures, ceilings, summaries."""

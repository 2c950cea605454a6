"""One-line replacements for other projects' functions, same names, arguments and results.

    coophash.compat.deephash    CalcHammingDist, CalcTopMap, CalcTopMapWithPR, compute_result
    coophash.compat.orthohash   calculate_mAP
    coophash.compat.ucch        NCEAverage, NCESoftmaxLoss, ContrastiveLoss,
                                fx_calc_map_multilabel_k
    coophash.compat.faiss       read_index_binary, write_index_binary

Their quirks are kept; docs/metrics-of-other-projects.md has them beside the right definitions.
"""

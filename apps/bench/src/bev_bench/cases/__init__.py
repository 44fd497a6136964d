"""The operators of bev_ops, bev_temporal and bev_heads, each beside a plain version of the same, written here."""

from bev_bench.cases.case import Case, DisagreementError
from bev_bench.cases.decode import decode_cases
from bev_bench.cases.pool import pool_cases
from bev_bench.cases.stereo import stereo_cases
from bev_bench.cases.warp import warp_cases

__all__ = ["Case", "DisagreementError", "decode_cases", "pool_cases", "stereo_cases", "warp_cases"]

"""What only the stacks in containers have; the stack without Docker runs none of this."""

from __future__ import annotations

from tests.support.network import stack_kind

collect_ignore_glob = {
    "processes": ["test_*.py"],
    "containers": ["test_sam_local.py"],
    "sam": ["test_compose.py"],
}[stack_kind()]

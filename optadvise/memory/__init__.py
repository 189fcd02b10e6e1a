"""Memory arithmetic, pure: what an optimizer keeps, what a step keeps, and the ledger of both."""

from optadvise.memory.optimizer_state import DTYPE_BITS as DTYPE_BITS
from optadvise.memory.optimizer_state import own_state as own_state
from optadvise.memory.optimizer_state import shared_state_bytes as shared_state_bytes
from optadvise.memory.optimizer_state import state_bytes as state_bytes
from optadvise.memory.optimizer_state import state_bytes_per_parameter as state_bytes_per_parameter
from optadvise.memory.optimizer_state import unsized as unsized

# The facts of a situation that this arithmetic reads.
INPUTS = frozenset({
    "model", "params", "vram_bytes", "method", "precision", "shard", "gpus", "lora_rank", "lora_targets",
    "seq_len", "image_size", "micro_batch", "batch_size", "checkpointing", "attention", "gradient_release", "offload",
    "loss", "shape",
})  # fmt: skip

"""Where Lightning's loops are, in a checkpoint."""

from __future__ import annotations

from typing import Any

__all__ = ["settle_position"]


def settle_position(fit_loop: dict[str, Any], batches_per_epoch: int) -> None:
    """Make a loop state that depends on the number of batches alone, not on how often the run was resumed.

    Lightning recognises a state that was saved at the end of a batch by its counters: everything is counted but the
    completion of this batch (and epoch). After a resume some counters lag by one more, the state is taken for another
    one, and the next resume repeats batches, or trains on after the end. The number of processed batches is right
    always; this derives the others from it.

    Args:
        fit_loop: ``checkpoint["loops"]["fit_loop"]``; changed in place.
        batches_per_epoch: of one process.
    """
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    processed = batches["total"]["processed"]
    if processed == 0:
        return
    epoch, before = divmod(processed - 1, batches_per_epoch)  # batches of this epoch before the last one
    batches["total"] = _at_the_end_of(processed)
    batches["current"] = _at_the_end_of(before + 1)
    batches["is_last_batch"] = before + 1 == batches_per_epoch
    begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    epochs["total"], epochs["current"] = dict(begun), dict(begun)


def _at_the_end_of(batch: int) -> dict[str, int]:
    return {"ready": batch, "started": batch, "processed": batch, "completed": batch - 1}

/* TensorBoard event files: scalars that `tensorboard --logdir run` shows.
 *
 * A file is a sequence of records
 *   u64 length | u32 masked crc32c of those 8 bytes | payload | u32 masked crc32c of payload
 * whose payload is a protobuf `Event` {1: double wall_time, 2: int64 step, 3: string file_version | 5: Summary |
 * 7: SessionLog}.  Each call appends one record and hands it to the operating system, so that a killed process
 * loses nothing that was written.  Nothing is synced: curves are not worth a disk flush per step. */
#ifndef ML_TRAIN_TFEVENTS_H
#define ML_TRAIN_TFEVENTS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ml_tfevents ml_tfevents;

typedef struct {
    const char *tag; /* e.g. "train/loss" */
    float value;
} ml_tfevents_scalar;

/* A new file events.out.tfevents.<time>.<host>.<pid>.<n> in the folder.  A resumed run gives the first step it
 * will write again: TensorBoard then drops older points from that step on; -1 for a fresh run. */
ml_status ml_tfevents_open(ml_tfevents **out, const char *folder, int64_t resume_step, ml_error *err);
/* All scalars of one step as one event.  `wall_time` in seconds since 1970. */
ml_status ml_tfevents_write(ml_tfevents *t, int64_t step, double wall_time, const ml_tfevents_scalar *scalars,
                            size_t n_scalar, ml_error *err);
void ml_tfevents_close(ml_tfevents *t);

/* CRC-32C (Castagnoli), as iSCSI uses it. */
uint32_t ml_crc32c(const void *data, size_t n_bytes);

#endif

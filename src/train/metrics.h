/* What a run measured: log.jsonl, one JSON object per line, and the same numbers for TensorBoard.
 *
 *   {"step":10,"tokens":327680,"loss":..,"ce":..,"aux":..,"z":..,"lr":..,"grad_norm":..,"update_rms":..,
 *    "max_load":[per MoE layer],"router_entropy":[..],"tps":..,"mfu":..,"mem_mb":..,"seconds":..}
 *   {"step":10,"val_loss":..}
 *
 * Numbers have enough digits to come back as the same double; one that is not finite is null (and not sent to
 * TensorBoard).
 *
 * After a resume every step is in the log once.  Opening at step s takes the lines with a greater step out of
 * log.jsonl, atomically, and appends them to log.after_<s>.jsonl, so that what the abandoned steps measured is
 * not lost.  A line torn by kill -9 (the last one, without its newline) is dropped. */
#ifndef ML_TRAIN_METRICS_H
#define ML_TRAIN_METRICS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ml_metrics ml_metrics;

/* A number that only some stages have, e.g. {"reward_accuracy", 0.71}. */
typedef struct {
    const char *name;
    double value;
} ml_metrics_extra;

typedef struct {
    int64_t step, tokens; /* tokens: trained on since the run began */
    double loss, ce, aux, z;
    double lr, grad_norm, update_rms;
    int n_moe_layer;
    const float *max_load;       /* [n_moe_layer] load of the busiest expert over the mean load */
    const float *router_entropy; /* [n_moe_layer] nats */
    double tps, mfu, mem_mb;
    double seconds; /* this step */
    const ml_metrics_extra *extra;
    size_t n_extra;
} ml_metrics_step;

/* Open the log of a run folder at `step`, the last step that the model in memory has done: 0 for a fresh run.
 * ML_EFORMAT with the line number when log.jsonl is not what this module writes. */
ml_status ml_metrics_open(ml_metrics **out, const char *folder, int64_t step, ml_error *err);
void ml_metrics_close(ml_metrics *m);
/* Whether the log already had the evaluation of that step when it was opened. */
bool ml_metrics_has_eval(const ml_metrics *m);

/* Append one line and one TensorBoard event (tags train/loss, train/lr, router/max_load_<layer>, ...). */
ml_status ml_metrics_write_step(ml_metrics *m, const ml_metrics_step *s, ml_error *err);
/* {"step", "val_loss", extras}; tags eval/... */
ml_status ml_metrics_write_eval(ml_metrics *m, int64_t step, double val_loss, const ml_metrics_extra *extra,
                                size_t n_extra, ml_error *err);

#endif

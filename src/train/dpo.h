/* Direct preference optimisation (Rafailov et al., arXiv:2305.18290): of two answers to a prompt the chosen one is to
 * become likelier than the rejected one, measured from a frozen reference.
 *
 *   reward r(y) = beta (log p(y) - log p_ref(y)), sums over the answer's tokens with its end
 *   margin m    = r(chosen) - r(rejected)
 *   sigmoid     loss = -log sigmoid(m)
 *   ipo         loss = (m / beta - 1 / (2 beta))^2                    (Azar et al., arXiv:2310.12036, eq. 17)
 *
 * averaged over pairs.  `chosen` adds so many times the mean -log p of a token of the chosen answer (Pang et al.,
 * arXiv:2404.19733, eq. 2): a margin can also grow while both answers become less likely, and this holds the chosen
 * one. Before the first step policy and reference are equal, m is 0 and the sigmoid loss log 2. Figures of a step and
 * of an evaluation: reward_accuracy (share of pairs with m > 0), reward_margin (mean m), reward_chosen, reward_rejected
 * (mean rewards).
 *
 * The reference is either asked once about every pair (cached), or along each batch (live); the numbers are the same
 * but for rounding.  Where an adapter is trained, the reference is the model without it.
 *
 * A reference that was uploaded to a device (ml_model_upload) is asked there, a live one within the step; training on
 * that device, the loss is made there too and nobody waits for it. */
#ifndef ML_TRAIN_DPO_H
#define ML_TRAIN_DPO_H

#include "base/log.h"
#include "train/dpo_rule.h"
#include "train/loop.h"
#include "train/row_feed.h"

typedef struct {
    ml_row_feed_config feed; /* batch: pairs, two sequences each */
    double beta;
    ml_dpo_loss loss;
    double chosen;          /* weight of the chosen answer's cross-entropy; 0: none */
    ml_precision precision; /* of the reference's products, where it lies on a device */
} ml_dpo_config;

typedef struct ml_dpo ml_dpo;

/* `rows` must outlive the stage; ML_EINVAL when they are no pairs.  It needs a reference before its first batch. */
ml_status ml_dpo_make(const ml_rows *rows, const ml_dpo_config *config, ml_dpo **out, ml_error *err);
void ml_dpo_free(ml_dpo *d);

/* Name the reference: a hash of its weights, as they are stored, and of the pairs.  (A model and the same model in
 * another type have different names.) */
ml_status ml_dpo_identify(ml_dpo *d, const ml_model *reference, ml_error *err);
/* The hash, as hex. */
const char *ml_dpo_reference_name(const ml_dpo *d);
/* Ask the reference about every pair in use.  ML_ECANCEL when the progress (may be NULL; in pairs) says so. */
ml_status ml_dpo_compute_reference(ml_dpo *d, ml_model *reference, ml_progress *progress, ml_error *err);
/* What it said, to a file and back.  *found: the file is there and of this reference; else nothing is loaded. */
ml_status ml_dpo_save_reference(const ml_dpo *d, const char *path, ml_error *err);
ml_status ml_dpo_load_reference(ml_dpo *d, const char *path, bool *found, ml_error *err);
/* Or ask it along each batch; it must outlive the stage. */
ml_status ml_dpo_use_live_reference(ml_dpo *d, ml_model *reference, ml_error *err);

/* The stage to hand to the loop; lives as long as d. */
const ml_stage *ml_dpo_stage(ml_dpo *d);

#endif

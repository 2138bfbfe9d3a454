#include "train/dpo.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "train/cuda/dpo.h"
#include "train/plan.h"

#include <math.h>
#include <string.h>

/* log p of both answers of a pair. */
typedef struct {
    double chosen, rejected;
} pair_logp;

/* Sums over the pairs that the loss has seen. */
typedef struct {
    int64_t n_pair, n_right;
    double chosen, rejected; /* rewards */
} tally;

struct ml_dpo {
    ml_dpo_config config;
    ml_row_feed feed;
    pair_logp *reference[ML_N_SPLIT]; /* [n] pairs of a split in use */
    int64_t n[ML_N_SPLIT];
    char name[ML_SHA256_HEX]; /* of the reference */
    ml_model *live;           /* NULL: cached */
    ml_ctx ctx;               /* of the reference's passes; on a device, where it is live, they use the loop's */
    bool has_ctx;
    tally seen;
    double *staged; /* [2 * pairs of a batch] what the reference said, on its way to the device ... */
    double *there;  /* ... and there, in the context of the micro-step */
    ml_stage stage;
};

/* ---- the loss ---- */

static int64_t count_answer(const ml_batch *b, int64_t s)
{
    int64_t n = 0;
    for (int32_t i = b->seq[s]; i < b->seq[s + 1]; i++) n += b->target[i] >= 0;
    return n;
}

static double sum_logp(const ml_batch *b, int64_t s, const float *logp)
{
    double sum = 0;
    for (int32_t i = b->seq[s]; i < b->seq[s + 1]; i++) {
        if (b->target[i] >= 0) sum += (double)logp[i];
    }
    return sum;
}

static void put_seed(const ml_batch *b, int64_t s, float value, float *seed)
{
    for (int32_t i = b->seq[s]; i < b->seq[s + 1]; i++) {
        if (b->target[i] >= 0) seed[i] = value;
    }
}

static void loss(void *self, const ml_batch *b, const float *logp, double weight, float *seed, double *sum)
{
    ml_dpo *d = self;
    double beta = d->config.beta;
    for (int64_t s = 0; s < b->n_seq; s += 2) {
        const pair_logp *ref = &d->reference[seed ? ML_SPLIT_TRAIN : ML_SPLIT_VAL][b->row[s]];
        double chosen = sum_logp(b, s, logp), rejected = sum_logp(b, s + 1, logp), slope;
        *sum += ml_dpo_pair_loss(d->config.loss, beta, chosen - rejected, ref->chosen - ref->rejected, &slope);
        int64_t n = count_answer(b, s);
        double per_token = n ? d->config.chosen / (double)n : 0;
        *sum -= per_token * chosen;
        double r_chosen = beta * (chosen - ref->chosen), r_rejected = beta * (rejected - ref->rejected);
        d->seen.n_pair++;
        d->seen.n_right += r_chosen > r_rejected;
        d->seen.chosen += r_chosen;
        d->seen.rejected += r_rejected;
        if (!seed) continue;
        put_seed(b, s, (float)(weight * (slope - per_token)), seed);
        put_seed(b, s + 1, (float)(-weight * slope), seed);
    }
}

static int64_t count_pairs(void *self, const ml_batch *b)
{
    (void)self;
    return b->n_seq / 2;
}

static size_t figures(void *self, const ml_stage_sums *sums, ml_stage_figure figure[ML_STAGE_MAX_FIGURES])
{
    ml_dpo *d = self;
    tally t = d->seen;
    if (sums) {
        t = (tally){ .n_pair = (int64_t)sums->of[ML_DPO_N_PAIR],
                     .n_right = (int64_t)sums->of[ML_DPO_N_RIGHT],
                     .chosen = sums->of[ML_DPO_CHOSEN],
                     .rejected = sums->of[ML_DPO_REJECTED] };
    } else {
        d->seen = (tally){ 0 };
    }
    double n = t.n_pair ? (double)t.n_pair : 1;
    figure[0] = (ml_stage_figure){ "reward_accuracy", (double)t.n_right / n };
    figure[1] = (ml_stage_figure){ "reward_margin", (t.chosen - t.rejected) / n };
    figure[2] = (ml_stage_figure){ "reward_chosen", t.chosen / n };
    figure[3] = (ml_stage_figure){ "reward_rejected", t.rejected / n };
    return 4;
}

/* ---- the loss on a device ---- */

/* What the live reference makes of the batch, or what it said before. */
static ml_status prepare_there(void *self, ml_ctx *ctx, const ml_batch *b, const ml_model_input *input,
                               ml_tensor *target, bool training, ml_error *err)
{
    ml_dpo *d = self;
    size_t n_bytes = (size_t)b->n_seq * sizeof *d->there;
    d->there = ml_ctx_scratch_data(ctx, n_bytes);
    if (!d->there) return ml_ctx_status(ctx, err);
    if (!d->live || !d->live->device) {
        for (int64_t s = 0; s < b->n_seq; s += 2) {
            const pair_logp *ref = &d->reference[training ? ML_SPLIT_TRAIN : ML_SPLIT_VAL][b->row[s]];
            d->staged[s] = ref->chosen;
            d->staged[s + 1] = ref->rejected;
        }
        return ml_device_upload(ctx->device, d->there, d->staged, n_bytes, err);
    }
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_model_input in = { .id = input->id, .pos = input->pos, .seq = input->seq };
    ml_tensor *logp = ml_model_logprob(ctx, d->live, ml_model_forward(ctx, d->live, &in), target); // [tokens]
    if (logp) (void)ml_cuda_sum_sequences(ctx, ml_f32(logp), ml_i32(target), ml_i32(in.seq), b->n_seq, d->there);
    ml_ctx_release(ctx, mark);
    return ml_ctx_status(ctx, err);
}

static ml_status loss_there(void *self, ml_ctx *ctx, const ml_batch *b, const ml_model_input *input,
                            const ml_tensor *target, const float *logp, double weight, float *seed, ml_stage_sums *sums,
                            ml_error *err)
{
    ml_dpo *d = self;
    ml_dpo_terms terms = {
        .loss = d->config.loss, .beta = d->config.beta, .chosen = d->config.chosen, .weight = weight
    };
    (void)ml_cuda_dpo(ctx, &terms, logp, ml_i32(target), ml_i32(input->seq), b->n_seq, d->there, seed, sums);
    return ml_ctx_status(ctx, err);
}

static const ml_stage_there there = { .prepare = prepare_there, .loss = loss_there };

/* ---- the reference ---- */

static ml_status make_ctx(ml_dpo *d, const ml_model *reference, ml_error *err)
{
    if (d->has_ctx) return ML_OK;
    int64_t tokens = 2 * d->config.feed.batch * d->config.feed.seq;
    if (reference->device) {
        size_t n_bytes = (size_t)ml_train_plan_device_pass(&reference->config, tokens, d->config.precision);
        ML_TRY(ml_ctx_init_on(&d->ctx, reference->device, n_bytes, 0, err));
        d->ctx.precision = d->config.precision;
    } else {
        ml_train_plan plan = ml_train_make_plan(&reference->config, tokens, false, false);
        /* Address space only, as in the loop. */
        ML_TRY(ml_ctx_init(&d->ctx, (size_t)(2 * plan.activations) + ((size_t)1 << 28), 0, err));
    }
    d->has_ctx = true;
    return ML_OK;
}

/* What the reference makes of the pairs of a batch. */
static ml_status ask(ml_dpo *d, ml_model *reference, ml_data_split split, const ml_batch *b, ml_error *err)
{
    ml_ctx *ctx = &d->ctx;
    int64_t n = b->n_token, n_offset = b->n_seq + 1;
    ml_ctx_reset(ctx);
    ctx->mode = ML_MODE_EXACT;
    ml_model_input in = { .id = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->id),
                          .pos = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->pos),
                          .seq = ml_tensor_wrap(ctx, ML_I32, 1, &n_offset, b->seq) };
    ml_tensor *target = ml_tensor_wrap(ctx, ML_I32, 1, &n, b->target);
    ml_tensor *logp = ml_model_logprob(ctx, reference, ml_model_forward(ctx, reference, &in), target); // [tokens]
    const float *found = ml_tensor_read(ctx, logp);
    ML_TRY(ml_ctx_status(ctx, err));
    for (int64_t s = 0; s < b->n_seq; s += 2) {
        d->reference[split][b->row[s]] = (pair_logp){ sum_logp(b, s, found), sum_logp(b, s + 1, found) };
    }
    return ML_OK;
}

static ml_status ask_split(ml_dpo *d, ml_model *reference, ml_data_split split, ml_batch *b, ml_progress *progress,
                           ml_error *err)
{
    int64_t batch = d->config.feed.batch, done = split == ML_SPLIT_VAL ? d->n[ML_SPLIT_TRAIN] : 0;
    ml_row_loader *loader = split == ML_SPLIT_VAL ? d->feed.val : d->feed.train;
    for (int64_t i = 0; i < d->n[split]; i += batch) {
        int64_t n = d->n[split] - i < batch ? d->n[split] - i : batch;
        ML_TRY(ml_row_loader_read(loader, i, n, b, err));
        ML_TRY(ask(d, reference, split, b, err));
        ml_progress_update(progress, (double)(done + i + n), NULL);
        if (ml_progress_stopped(progress)) return ml_fail(err, ML_ECANCEL, "stopped while the reference was asked");
    }
    return ML_OK;
}

ml_status ml_dpo_compute_reference(ml_dpo *d, ml_model *reference, ml_progress *progress, ml_error *err)
{
    ml_batch b;
    int64_t n_seq = 2 * d->config.feed.batch;
    ML_TRY(make_ctx(d, reference, err));
    ml_status status = ml_batch_init(&b, n_seq * d->config.feed.seq, n_seq, err);
    if (status == ML_OK) status = ask_split(d, reference, ML_SPLIT_TRAIN, &b, progress, err);
    if (status == ML_OK) status = ask_split(d, reference, ML_SPLIT_VAL, &b, progress, err);
    ml_batch_free(&b);
    ml_ctx_free(&d->ctx); /* a device's memory is wanted for the training */
    d->has_ctx = false;
    return status;
}

ml_status ml_dpo_use_live_reference(ml_dpo *d, ml_model *reference, ml_error *err)
{
    if (!reference->device) ML_TRY(make_ctx(d, reference, err));
    d->live = reference;
    return ML_OK;
}

ml_status ml_dpo_identify(ml_dpo *d, const ml_model *m, ml_error *err)
{
    ml_sha256 *hash;
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(ml_sha256_begin(&hash, err));
    ml_sha256_add(hash, d->feed.rows->fingerprint, ML_SHA256_HEX - 1);
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &m->weight[i];
        ml_sha256_add(hash, w->name, strlen(w->name) + 1);
        int64_t n = ml_weight_count(w);
        ml_sha256_add(hash, w->data, w->n_dim == 1 ? (size_t)n * sizeof(float) : ml_dtype_row_bytes(w->dtype, n));
    }
    ml_sha256_end(hash, digest);
    ml_sha256_to_hex(digest, d->name);
    return ML_OK;
}

const char *ml_dpo_reference_name(const ml_dpo *d)
{
    return d->name;
}

/* ---- its file: {"reference": name, "train": [chosen, rejected, ...], "val": [...]} ---- */

ml_status ml_dpo_save_reference(const ml_dpo *d, const char *path, ml_error *err)
{
    json_t *root = json_pack("{s:s}", "reference", d->name);
    if (!root) return ml_fail_memory(err, 0, "what the reference said");
    for (int split = 0; split < ML_N_SPLIT; split++) {
        json_t *list = json_array();
        for (int64_t i = 0; i < d->n[split]; i++) {
            json_array_append_new(list, json_real(d->reference[split][i].chosen));
            json_array_append_new(list, json_real(d->reference[split][i].rejected));
        }
        json_object_set_new(root, ml_dataset_split_name((ml_data_split)split), list);
    }
    ml_status status = ml_json_save(root, path, err);
    json_decref(root);
    return status;
}

static bool read_split(ml_dpo *d, ml_data_split split, const json_t *list)
{
    if ((int64_t)json_array_size(list) < 2 * d->n[split]) return false; /* fewer rows were evaluated then */
    for (int64_t i = 0; i < d->n[split]; i++) {
        const json_t *chosen = json_array_get(list, (size_t)(2 * i)),
                     *rejected = json_array_get(list, (size_t)(2 * i + 1));
        if (!json_is_real(chosen) || !json_is_real(rejected)) return false;
        d->reference[split][i] = (pair_logp){ json_real_value(chosen), json_real_value(rejected) };
    }
    return true;
}

ml_status ml_dpo_load_reference(ml_dpo *d, const char *path, bool *found, ml_error *err)
{
    json_t *root;
    *found = false;
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_json_load(path, &root, err));
    const char *name = json_string_value(json_object_get(root, "reference"));
    *found = name && !strcmp(name, d->name) && read_split(d, ML_SPLIT_TRAIN, json_object_get(root, "train")) &&
             read_split(d, ML_SPLIT_VAL, json_object_get(root, "val"));
    json_decref(root);
    return ML_OK;
}

/* ---- the stage ---- */

static ml_status next(void *self, ml_batch *out, ml_error *err)
{
    ml_dpo *d = self;
    ML_TRY(ml_row_feed_next(&d->feed, out, err));
    return d->live && !d->live->device ? ask(d, d->live, ML_SPLIT_TRAIN, out, err) : ML_OK;
}

static ml_status eval(void *self, int64_t i, ml_batch *out, ml_error *err)
{
    ml_dpo *d = self;
    ML_TRY(ml_row_feed_eval(&d->feed, i, out, err));
    return d->live && !d->live->device ? ask(d, d->live, ML_SPLIT_VAL, out, err) : ML_OK;
}

static json_t *position(void *self)
{
    ml_dpo *d = self;
    json_t *j = ml_row_feed_position(&d->feed);
    json_object_set_new(j, "reference", json_string(d->name));
    return j;
}

static ml_status restore(void *self, const json_t *j, const char *where, ml_error *err)
{
    ml_dpo *d = self;
    const char *name;
    ML_TRY(ml_json_text(j, "reference", where, &name, err));
    if (strcmp(name, d->name) != 0) {
        return ml_fail(
            err, ML_EINVAL,
            "%s: the run began with reference %.16s..., init.from and the pairs give %.16s...: name the model "
            "and the data that it began with",
            where, name, d->name);
    }
    return ml_row_feed_restore(&d->feed, j, where, err);
}

static ml_status make_pairs(ml_dpo *d, ml_error *err)
{
    d->n[ML_SPLIT_TRAIN] = ml_row_loader_n_row(d->feed.train);
    d->n[ML_SPLIT_VAL] = d->feed.n_eval_row;
    d->staged = ml_calloc((size_t)(2 * d->config.feed.batch), sizeof *d->staged);
    if (!d->staged) return ml_fail_memory(err, (size_t)d->config.feed.batch * sizeof *d->staged, "the reference");
    for (int i = 0; i < ML_N_SPLIT; i++) {
        d->reference[i] = ml_calloc((size_t)d->n[i] + 1, sizeof **d->reference);
        if (!d->reference[i]) return ml_fail_memory(err, (size_t)d->n[i] * sizeof **d->reference, "the reference");
    }
    return ML_OK;
}

ml_status ml_dpo_make(const ml_rows *rows, const ml_dpo_config *config, ml_dpo **out, ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_rows_check_kind(rows, ML_ROWS_PAIR, err));
    ml_dpo *d = ml_calloc(1, sizeof *d);
    if (!d) return ml_fail_memory(err, sizeof *d, "the stage dpo");
    d->config = *config;
    ml_status status = ml_row_feed_init(&d->feed, rows, &config->feed, err);
    if (status == ML_OK) status = make_pairs(d, err);
    if (status != ML_OK) {
        ml_dpo_free(d);
        return status;
    }
    d->stage = (ml_stage){ .name = "dpo",
                           .self = d,
                           .next = next,
                           .loss = loss,
                           .there = &there,
                           .count = count_pairs,
                           .figures = figures,
                           .eval = eval,
                           .n_eval = d->feed.n_eval,
                           .is_tuning = true,
                           .position = position,
                           .restore = restore };
    *out = d;
    return ML_OK;
}

void ml_dpo_free(ml_dpo *d)
{
    if (!d) return;
    ml_row_feed_free(&d->feed);
    for (int i = 0; i < ML_N_SPLIT; i++) ml_free(d->reference[i]);
    ml_free(d->staged);
    if (d->has_ctx) ml_ctx_free(&d->ctx);
    ml_free(d);
}

const ml_stage *ml_dpo_stage(ml_dpo *d)
{
    return &d->stage;
}

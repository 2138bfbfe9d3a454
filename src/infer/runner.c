#include "infer/runner.h"

#include "infer/runner_device.h"
#include "model/kv_cache.h"

#include <string.h>

/* Tokens: what of a shared beginning is no full page is computed again by everybody. */
enum { PAGE_SIZE = 16 };

struct ml_runner {
    ml_model *model;
    ml_runner_config config;
    ml_ctx ctx;
    ml_pages pages;
    ml_kv_cache *cache;
    ml_tensor *hidden; /* [n, d] of the last pass */
    const ml_routing_observer *observer;
    const ml_adapter **adapter; /* [n_seq] */
    ml_adapter_shape shape;     /* on a device: of all adapters that passes had so far */
    ml_runner_device on;
    const ml_decode_pass *decoded; /* the last pass, when it was one of these: its logits are there */
};

/* The results of all layers, every intermediate of one, and the logits, with room to spare; only touched pages cost
 * memory. */
static size_t activation_bytes(const ml_config *c, int64_t n_token)
{
    int64_t n_qk = c->num_attention_heads * ml_config_d_qk(c), n_v = c->num_attention_heads * ml_config_d_v(c);
    int64_t layer = 8 * c->hidden_size + 4 * c->intermediate_size + 4 * (n_qk + n_v) +
                    8 * (c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size +
                    4 * c->n_routed_experts;
    if (c->attention == ML_ATTENTION_MLA) layer += 2 * c->num_attention_heads * c->kv_lora_rank;
    return (size_t)(((c->num_hidden_layers + 2) * c->hidden_size + layer) * n_token) * sizeof(float);
}

/* Beside activations a device's products and attention have results of their own (ops/cuda). */
static size_t work_bytes(const ml_config *c, int64_t n_token)
{
    int64_t row = c->num_experts_per_tok * (c->hidden_size + 2);
    if (c->attention == ML_ATTENTION_MLA) row += 2 * c->num_attention_heads * c->kv_lora_rank;
    size_t prompts = (size_t)ML_PROMPT_WINDOW_BYTES + (size_t)ML_PROMPT_STATE_BYTES;
    return (size_t)(row * n_token) * sizeof(float) + prompts;
}

static size_t device_bytes(const ml_model *m, int64_t n_token)
{
    return work_bytes(&m->config, n_token) + ml_model_widest_bytes(m) + ((size_t)256 << 20);
}

int64_t ml_runner_choose_pass(const ml_model *m, int64_t capacity, ml_dtype kv_dtype)
{
    int64_t n = ML_PROMPT_PASS;
    if (m->device) {
        int64_t cache = ml_kv_cache_token_bytes(&m->config, kv_dtype) * capacity;
        int64_t left = ml_device_get_info(m->device).free_bytes - cache;
        n = ML_DEVICE_PROMPT_PASS;
        while (n > ML_PROMPT_PASS && (int64_t)(activation_bytes(&m->config, n) + device_bytes(m, n)) > left / 4) n /= 2;
    }
    return n < capacity ? n : capacity;
}

static int64_t count_pages(const ml_runner_config *n, int64_t page)
{
    return (n->cache_token + page - 1) / page + n->n_seq; /* each sequence's last page is partly filled */
}

/* Logits of a decode pass, rounded up, and of rows picked from another. */
static int64_t device_logits(const ml_runner_config *n)
{
    return 2 * (n->n_seq + 32);
}

int64_t ml_runner_plan_device(const ml_config *c, const ml_runner_config *n, int64_t widest_bytes)
{
    ml_runner_config filled = *n;
    if (filled.cache_token == 0) filled.cache_token = n->n_seq * n->capacity;
    int64_t page = n->capacity < PAGE_SIZE ? n->capacity : PAGE_SIZE, slack = (int64_t)257 << 20;
    int64_t cache = (count_pages(&filled, page) + 1) * page * ml_kv_cache_token_bytes(c, n->kv_dtype);
    int64_t logits = device_logits(n) * c->vocab_size * (int64_t)sizeof(float);
    return (int64_t)activation_bytes(c, n->max_token) + (int64_t)work_bytes(c, n->max_token) + logits + widest_bytes +
           cache + slack;
}

static ml_status make(ml_runner *r, ml_error *err)
{
    const ml_config *c = &r->model->config;
    const ml_runner_config *n = &r->config;
    int64_t page = n->capacity < PAGE_SIZE ? n->capacity : PAGE_SIZE;
    int64_t n_page = count_pages(n, page);
    int64_t n_logits = n->n_seq;
    size_t slack = (size_t)256 << 20;
    r->adapter = ml_calloc((size_t)n->n_seq + 1, sizeof *r->adapter);
    if (!r->adapter) return ml_fail_memory(err, (size_t)n->n_seq * sizeof *r->adapter, "a runner");
    for (int64_t s = 0; s < n->n_seq; s++) ml_runner_set_adapter(r, s, NULL);
    ml_device *device = r->model->device;
    ml_device_enter(device);
    if (device) {
        slack = device_bytes(r->model, n->max_token);
        n_logits = device_logits(n);
    }
    size_t logits = (size_t)(n_logits * c->vocab_size) * sizeof(float);
    ML_TRY(ml_ctx_init_on(&r->ctx, device, activation_bytes(c, n->max_token) + logits + slack, 0, err));
    ML_TRY(ml_pages_make(&r->pages, n_page, (int32_t)page, n->n_seq, n->capacity, err));
    if (device) {
        /* Prompts on the matrix unit, but where weights have more bits than it takes. */
        if (r->model->layer[0].attn_out.dtype != ML_F32) r->ctx.precision = ML_PRECISION_BF16;
        int64_t n_token = n->max_token > ML_DECODE_MOST ? n->max_token : ML_DECODE_MOST;
        ML_TRY(ml_runner_device_make(&r->on, device, &r->pages, n_token, c->hidden_size, (int32_t)n_page, err));
        ML_TRY(ml_adapter_shape_make(c->num_hidden_layers, &r->shape, err));
        n_page++;
    }
    return ml_kv_cache_make(c, n_page * page, n->kv_dtype, device, &r->cache, err);
}

ml_status ml_runner_make(ml_model *model, const ml_runner_config *config, ml_runner **out, ml_error *err)
{
    *out = NULL;
    int64_t most = model->config.max_position_embeddings;
    if (config->capacity < 1 || config->capacity > most) {
        return ml_fail(err, ML_EINVAL, "a context of %lld tokens: expected 1 to %lld, the model's positions",
                       (long long)config->capacity, (long long)most);
    }
    ml_runner *r = ml_calloc(1, sizeof *r);
    if (!r) return ml_fail_memory(err, sizeof *r, "a runner");
    r->model = model;
    r->config = *config;
    if (r->config.cache_token == 0) r->config.cache_token = config->n_seq * config->capacity;
    ml_status status = make(r, err);
    if (status != ML_OK) {
        ml_runner_free(r);
        return status;
    }
    *out = r;
    return ML_OK;
}

void ml_runner_free(ml_runner *r)
{
    if (!r) return;
    ml_ctx_free(&r->ctx);
    ml_runner_device_free(&r->on);
    ml_pages_free(&r->pages);
    ml_kv_cache_free(r->cache);
    ml_adapter_shape_free(&r->shape);
    ml_free(r->adapter);
    ml_free(r);
}

void ml_runner_set_adapter(ml_runner *r, int64_t seq, const ml_adapter *adapter)
{
    if (!adapter) adapter = r->model->adapter;
    r->adapter[seq] = adapter == &ml_adapter_none ? NULL : adapter;
}

void ml_runner_forget_adapter(ml_runner *r, const ml_adapter *adapter)
{
    for (int64_t s = 0; s < r->config.n_seq; s++) {
        if (r->adapter[s] == adapter) r->adapter[s] = NULL;
    }
}

int64_t ml_runner_cache_bytes(const ml_runner *r)
{
    return r->pages.n_page * r->pages.page_size * ml_kv_cache_token_bytes(&r->model->config, r->config.kv_dtype);
}

void ml_runner_observe(ml_runner *r, const ml_routing_observer *observer)
{
    r->observer = observer;
}

ml_pages *ml_runner_pages(ml_runner *r)
{
    return &r->pages;
}

static ml_tensor *wrap(ml_ctx *ctx, const int32_t *data, int64_t n)
{
    return ml_tensor_wrap(ctx, ML_I32, 1, &n, (void *)(uintptr_t)data);
}

/* The wanted rows of the hidden state, end to end. */
static ml_tensor *pick_rows(ml_ctx *ctx, ml_tensor *hidden, int64_t n_want, const int32_t *want)
{
    if (!hidden) return NULL;
    if (ctx->device) return ml_embedding(ctx, hidden, wrap(ctx, want, n_want));
    int64_t d = hidden->dim[1];
    ml_tensor *rows = ml_tensor_new_2d(ctx, ML_F32, n_want, d);
    if (!rows) return NULL;
    for (int64_t i = 0; i < n_want; i++) {
        memcpy(ml_f32(rows) + i * d, ml_f32(hidden) + want[i] * hidden->stride, (size_t)d * sizeof(float));
    }
    return rows;
}

/* ---- adapters ---- */

/* Tokens from `first` on whose sequence has this adapter. */
static ml_tensor *list_rows(ml_runner *r, const ml_adapter *adapter, int64_t first, int64_t n, const int32_t *seq)
{
    ml_ctx *ctx = &r->ctx;
    int32_t *row = ml_ctx_scratch(ctx, (size_t)n * sizeof *row);
    int64_t n_row = 0;
    for (int64_t t = first; t < n && row; t++) {
        if (r->adapter[seq[t]] == adapter) row[n_row++] = (int32_t)t;
    }
    return row ? wrap(ctx, row, n_row) : NULL;
}

static bool has_adapters(const ml_runner *r, int64_t n, const int32_t *seq)
{
    for (int64_t t = 0; t < n; t++) {
        if (r->adapter[seq[t]]) return true;
    }
    return false;
}

/* Who has which adapter in a pass; tokens before `first` are in no group.  NULL on failure, with the error in ctx. */
static ml_adapter_use *make_use(ml_runner *r, int64_t first, int64_t n, const int32_t *seq)
{
    int64_t n_seq = r->config.n_seq;
    ml_adapter_use *use = ml_ctx_scratch(&r->ctx, sizeof *use);
    ml_adapter_group *group = ml_ctx_scratch(&r->ctx, (size_t)n_seq * sizeof *group);
    if (!use || !group) return NULL;
    *use = (ml_adapter_use){ .group = group, .of_seq = r->adapter, .n_seq = n_seq };
    for (int64_t t = first; t < n; t++) {
        bool known = false;
        for (int g = 0; g < use->n_group; g++) known = known || group[g].adapter == r->adapter[seq[t]];
        if (!known) group[use->n_group++] = (ml_adapter_group){ .adapter = r->adapter[seq[t]] };
    }
    bool all = first == 0 && use->n_group == 1;
    for (int g = 0; g < use->n_group && !all; g++) {
        group[g].row = list_rows(r, group[g].adapter, first, n, seq);
        if (!group[g].row) return NULL;
    }
    return use;
}

/* On a device: the table of terms of each token; what passes launch is made for them. */
static const ml_token_term **find_terms(ml_runner *r, int64_t n, const int32_t *seq)
{
    const ml_token_term **terms = ml_ctx_scratch(&r->ctx, (size_t)n * sizeof *terms);
    const ml_adapter *last = NULL;
    bool grew = false;
    for (int64_t t = 0; t < n && terms; t++) {
        const ml_adapter *a = r->adapter[seq[t]];
        if (a && (!a->is_there || a->device != r->on.device)) {
            ml_ctx_fail(&r->ctx, ML_EINVAL,
                        "an adapter beside a model on the GPU: expected one that was placed there "
                        "(ml_adapter_place)");
            return NULL;
        }
        terms[t] = a ? a->terms_there : NULL;
        if (a != last && ml_adapter_shape_add(&r->shape, a)) grew = true;
        last = a;
    }
    if (grew) ml_runner_device_drop_terms(&r->on);
    return terms;
}

static ml_status put_inputs(ml_runner *r, int64_t n, int64_t n_run, const int32_t *id, const int32_t *pos,
                            const int32_t *seq, const ml_token_term *const *terms, ml_pass_input *out, ml_error *err)
{
    ml_ctx *ctx = &r->ctx;
    if (r->on.device) return ml_runner_device_put(&r->on, ctx, &r->pages, n, n_run, id, pos, seq, terms, out, err);
    *out = (ml_pass_input){ wrap(ctx, id, n), wrap(ctx, pos, n), wrap(ctx, seq, n), r->pages.table, NULL };
    return ml_ctx_status(ctx, err);
}

/* ---- decode on a device ---- */

/* Hidden states and logits of a decode pass, queued. */
static ml_status compute(ml_runner *r, const ml_model_input *in, ml_decode_pass *pass, ml_error *err)
{
    ml_ctx *ctx = &r->ctx;
    ml_tensor *hidden = ml_model_forward(ctx, r->model, in);
    ml_tensor *logits = hidden ? ml_model_logits(ctx, r->model, hidden) : NULL;
    ML_TRY(ml_ctx_status(ctx, err));
    pass->hidden = *hidden;
    pass->logits = ml_f32(logits);
    pass->data_used = ml_arena_mark(&ctx->data);
    return ML_OK;
}

/* The same kept as a graph; without one when it cannot be captured. */
static ml_status capture(ml_runner *r, const ml_model_input *in, ml_decode_pass *pass, ml_error *err)
{
    ml_error why;
    ml_ctx_mark mark = ml_ctx_get_mark(&r->ctx);
    if (ml_device_capture_begin(r->on.device, &why) == ML_OK) {
        ml_status status = compute(r, in, pass, err);
        bool captured = ml_device_capture_end(r->on.device, &pass->graph, &why) == ML_OK;
        if (status != ML_OK) {
            ml_device_graph_free(pass->graph);
            pass->graph = NULL;
            return status;
        }
        if (captured) return ML_OK;
        ml_ctx_release(&r->ctx, mark);
    }
    pass->is_eager = true;
    return compute(r, in, pass, err);
}

static ml_status decode(ml_runner *r, const ml_model_input *in, ml_decode_pass *pass, ml_error *err)
{
    if (pass->graph) {
        r->ctx.data.used = pass->data_used; /* what the graph fills */
    } else if (pass->seen && !pass->is_eager) {
        ML_TRY(capture(r, in, pass, err));
    } else {
        ML_TRY(compute(r, in, pass, err)); /* the first time: kernels are loaded, which a capture may not do */
        pass->seen = true;
    }
    if (pass->graph) ml_device_queue_graph(r->on.device, pass->graph);
    r->hidden = &pass->hidden;
    r->decoded = pass;
    return ML_OK;
}

/* The decode pass that these tokens are; NULL when they are none: prompts, or more of a sequence than one, or somebody
 * watches the routing. */
static ml_decode_pass *find_decode_pass(ml_runner *r, int64_t n, int64_t n_decode, bool has_terms)
{
    int64_t n_run = ml_decode_round_up(n);
    if (!r->on.device || n != n_decode || n > r->config.n_seq || r->observer || n_run == 0) return NULL;
    return ml_runner_device_find(&r->on, n_run, has_terms);
}

int64_t ml_runner_count_launches(const ml_runner *r)
{
    return r->decoded && r->decoded->graph ? ml_device_graph_count(r->decoded->graph) : 0;
}

/* ---- both ---- */

ml_status ml_runner_forward(ml_runner *r, int64_t n, int64_t n_decode, const int32_t *id, const int32_t *pos,
                            const int32_t *seq, ml_error *err)
{
    ml_ctx *ctx = &r->ctx;
    ml_pass_input given;
    ml_device_enter(r->model->device);
    ml_ctx_reset(ctx);
    r->decoded = NULL;
    bool any = has_adapters(r, n, seq), there = r->on.device != NULL;
    const ml_token_term **terms = any && there ? find_terms(r, n, seq) : NULL;
    ML_TRY(ml_ctx_status(ctx, err));
    ml_decode_pass *pass = find_decode_pass(r, n, n_decode, any);
    int64_t n_run = pass ? pass->n : n;
    ctx->mode = ML_MODE_FAST;
    ctx->n_decode = pass ? n_run : n_decode;
    ML_TRY(put_inputs(r, n, n_run, id, pos, seq, terms, &given, err));
    ml_kv_cache_set_pages(r->cache, given.page_table, r->pages.page_size, r->pages.pages_per_seq);
    ml_adapter_use *use = any ? make_use(r, there ? n_decode : 0, n, seq) : NULL;
    ML_TRY(ml_ctx_status(ctx, err));
    if (use && there) {
        use->of_token = given.terms;
        use->shape = &r->shape;
    }
    ml_model_input in = { .id = given.id,
                          .pos = given.pos,
                          .seq = given.seq,
                          .cache = r->cache,
                          .n_decode = ctx->n_decode,
                          .observer = r->observer,
                          .adapters = use };
    if (pass) return decode(r, &in, pass, err);
    r->hidden = ml_model_forward(ctx, r->model, &in);
    return ml_ctx_status(ctx, err);
}

ml_status ml_runner_hidden(ml_runner *r, int64_t row, const float **out, ml_error *err)
{
    const float *at = ml_f32(r->hidden) + row * r->hidden->stride;
    *out = at;
    if (!r->on.device) return ML_OK;
    *out = r->on.hidden_here;
    return ml_device_download(r->on.device, r->on.hidden_here, at, (size_t)r->hidden->dim[1] * sizeof *at, err);
}

/* Wanted rows of the logits that a decode pass has, neighbours together. */
static ml_status take_decoded(const ml_runner *r, int64_t n_want, const int32_t *want, float *logits, ml_error *err)
{
    int64_t n_vocab = r->model->config.vocab_size;
    for (int64_t i = 0, n; i < n_want; i += n) {
        for (n = 1; i + n < n_want && want[i + n] == want[i] + n;) n++;
        const float *from = r->decoded->logits + want[i] * n_vocab;
        ML_TRY(ml_device_download(r->on.device, logits + i * n_vocab, from, (size_t)(n * n_vocab) * sizeof *from, err));
    }
    return ML_OK;
}

/* The elements of a result into memory here. */
static void take(ml_ctx *ctx, const ml_tensor *y, float *out)
{
    const float *from = y ? ml_tensor_read(ctx, y) : NULL;
    if (from) memcpy(out, from, (size_t)ml_tensor_count(y) * sizeof *out);
}

float *ml_runner_alloc_logits(const ml_model *model, size_t n)
{
    void *pinned;
    ml_error ignored;
    if (!model->device) return ml_calloc(n, sizeof(float));
    if (ml_device_alloc_pinned(model->device, n * sizeof(float), "logits", &pinned, &ignored) != ML_OK) return NULL;
    memset(pinned, 0, n * sizeof(float));
    return pinned;
}

void ml_runner_free_logits(const ml_model *model, float *logits)
{
    if (model->device) {
        if (logits) ml_device_release_pinned(model->device, logits);
    } else {
        ml_free(logits);
    }
}

ml_status ml_runner_logits(ml_runner *r, int64_t n_want, const int32_t *want, float *logits, ml_error *err)
{
    if (n_want == 0) return ML_OK;
    ml_ctx *ctx = &r->ctx;
    ml_device_enter(r->model->device);
    if (r->decoded) return take_decoded(r, n_want, want, logits, err);
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ctx->n_decode = n_want;
    take(ctx, ml_model_logits(ctx, r->model, pick_rows(ctx, r->hidden, n_want, want)), logits); // [n_want, vocab]
    ml_ctx_release(ctx, mark);
    return ml_ctx_status(ctx, err);
}

/* Logits of the rows that tokens are drawn from, there, in their order. */
static float *logits_there(ml_runner *r, ml_sample_row *row, int64_t n_row)
{
    ml_ctx *ctx = &r->ctx;
    if (r->decoded) return r->decoded->logits; /* of all rows */
    int32_t *want = ml_ctx_scratch(ctx, (size_t)n_row * sizeof *want);
    for (int64_t i = 0; i < n_row && want; i++) {
        want[i] = (int32_t)row[i].row;
        row[i].row = i;
    }
    ctx->n_decode = n_row;
    ml_tensor *logits = want ? ml_model_logits(ctx, r->model, pick_rows(ctx, r->hidden, n_row, want)) : NULL;
    return logits ? ml_f32(logits) : NULL;
}

ml_status ml_runner_sample(ml_runner *r, int64_t n_valid, ml_sample_row *row, int64_t n_row, const int32_t *penalised,
                           int64_t n_penalised, ml_sample_choice *out, ml_error *err)
{
    if (n_row == 0) return ML_OK;
    ml_ctx *ctx = &r->ctx;
    ml_device_enter(r->model->device);
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    float *logits = logits_there(r, row, n_row);
    ml_status status = ml_ctx_status(ctx, err);
    if (status == ML_OK) {
        status = ml_device_sample(ctx, logits, r->model->config.vocab_size, n_valid, row, n_row, penalised, n_penalised,
                                  out, err);
    }
    ml_ctx_release(ctx, mark);
    return status;
}

ml_status ml_runner_logprob(ml_runner *r, const int32_t *target, float *logprob, ml_error *err)
{
    ml_ctx *ctx = &r->ctx;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ctx->n_decode = 0;
    ml_device_enter(r->model->device);
    int64_t n = r->hidden->dim[0];
    take(ctx, ml_model_logprob(ctx, r->model, r->hidden, wrap(ctx, target, n)), logprob); // [n]
    ml_ctx_release(ctx, mark);
    return ml_ctx_status(ctx, err);
}

/* Making adapters, and what they make of the weights beside them. */
#include "model/adapter_internal.h"

#include "base/thread.h"
#include "model/kv_b.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const ml_adapter ml_adapter_none = { .dropout = 0 };

static const char *const DEFAULT_TARGET[] = { "self_attn.*" };

/* ---- choosing ---- */

typedef struct {
    const ml_adapter_config *config;
    const char *const *target;
    size_t n_target;
} choice;

static choice make_choice(const ml_adapter_config *c)
{
    choice made = { c, c->target, c->n_target };
    if (c->n_target == 0) {
        made.target = DEFAULT_TARGET;
        made.n_target = sizeof DEFAULT_TARGET / sizeof *DEFAULT_TARGET;
    }
    return made;
}

static bool choose_by_pattern(void *arg, const ml_adapter_module *module, int64_t *rank, double *alpha)
{
    const choice *c = arg;
    *rank = c->config->rank;
    *alpha = c->config->alpha;
    for (size_t i = 0; i < c->n_target; i++) {
        if (ml_adapter_matches(c->target[i], module->name)) return true;
    }
    return false;
}

/* The kinds of modules there are: their names behind the layer's number, each once. */
static void list_kinds(const ml_adapter_module *module, size_t n, char *text, size_t size)
{
    size_t length = 0;
    text[0] = 0;
    for (size_t i = 0; i < n; i++) {
        const char *kind = strchr(module[i].name + strlen("model.layers."), '.') + 1;
        bool again = false;
        for (size_t j = 0; j < i && !again; j++) {
            again = !strcmp(kind, strchr(module[j].name + strlen("model.layers."), '.') + 1);
        }
        if (again) continue;
        int more = snprintf(text + length, size - length, "%s%s", length ? ", " : "", kind);
        if (more < 0 || (size_t)more >= size - length) return;
        length += (size_t)more;
    }
}

static ml_status check_target(const char *target, const ml_adapter_module *module, size_t n, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (ml_adapter_matches(target, module[i].name)) return ML_OK;
    }
    char kinds[400];
    list_kinds(module, n, kinds, sizeof kinds);
    return ml_fail(err, ML_EINVAL,
                   "adapter target %.80s matches nothing: this model has, in layers \"model.layers.N\", %s", target,
                   kinds);
}

static ml_status check_config(const ml_adapter_config *c, const ml_adapter_module *module, size_t n, ml_error *err)
{
    if (c->rank < 1 || c->rank > 1 << 16) {
        return ml_fail(err, ML_EINVAL, "adapter rank %lld: expected 1 to %d", (long long)c->rank, 1 << 16);
    }
    if (!(c->dropout >= 0 && c->dropout < 1) || !isfinite(c->alpha)) {
        return ml_fail(err, ML_EINVAL, "adapter dropout %g, alpha %g: expected a dropout from 0 to less than 1",
                       c->dropout, c->alpha);
    }
    choice ch = make_choice(c);
    for (size_t i = 0; i < ch.n_target; i++) ML_TRY(check_target(ch.target[i], module, n, err));
    return ML_OK;
}

ml_status ml_adapter_plan(const ml_adapter_config *config, const ml_config *model, int64_t *n_param, ml_error *err)
{
    ml_adapter_module *module;
    size_t n;
    int64_t rank;
    double alpha;
    ML_TRY(ml_adapter_list_modules(model, &module, &n, err));
    ml_status status = check_config(config, module, n, err);
    choice ch = make_choice(config);
    *n_param = 0;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        const ml_adapter_module *m = &module[i];
        if (!choose_by_pattern(&ch, m, &rank, &alpha)) continue;
        *n_param += m->n_matrix * (rank * (m->rows + m->cols) + (config->dora ? m->rows : 0));
    }
    ml_free(module);
    return status;
}

/* ---- memory ---- */

enum { NAME_BYTES = ML_WEIGHT_NAME_MAX + 32 };

typedef struct {
    ml_adapter *a;
    bool placing;
    size_t n_bytes, n_param;
} placement;

static void place(placement *p, const ml_adapter_term *t, ml_tensor *tensor, const char *suffix, ml_param_kind kind,
                  int64_t n_matrix, int64_t rows, int64_t cols)
{
    ml_adapter *a = p->a;
    if (p->placing) {
        float *value = (float *)(void *)(a->values.base + p->n_bytes);
        float *grad = a->grads.base ? (float *)(void *)(a->grads.base + p->n_bytes) : NULL;
        if (kind == ML_PARAM_MAGNITUDE && n_matrix == 1) {
            *tensor = ml_tensor_describe(ML_F32, 1, &cols, value);
        } else if (kind == ML_PARAM_MAGNITUDE) {
            *tensor = ml_tensor_describe(ML_F32, 2, (int64_t[]){ n_matrix, cols }, value);
        } else if (n_matrix > 1) {
            *tensor = ml_tensor_describe(ML_F32, 3, (int64_t[]){ n_matrix, rows, cols }, value);
        } else {
            *tensor = ml_tensor_describe(ML_F32, 2, (int64_t[]){ rows, cols }, value);
        }
        tensor->grad = grad;
        tensor->needs_grad = grad != NULL;
        char *name = a->names + p->n_param * NAME_BYTES;
        snprintf(name, NAME_BYTES, "%s.%s", t->module.name, suffix);
        a->param[p->n_param] = (ml_param){ .name = name,
                                           .kind = kind,
                                           .value = grad ? value : NULL,
                                           .grad = grad,
                                           .n_matrix = n_matrix,
                                           .rows = rows,
                                           .cols = cols };
    }
    p->n_param++;
    p->n_bytes += ((size_t)(n_matrix * rows * cols) * sizeof(float) + 63) & ~(size_t)63;
}

static void place_all(placement *p)
{
    for (size_t i = 0; i < p->a->n_term; i++) {
        ml_adapter_term *t = &p->a->term[i];
        const ml_adapter_module *m = &t->module;
        place(p, t, &t->a, "lora_A.weight", ML_PARAM_LORA_A, m->n_matrix, t->rank, m->cols);
        place(p, t, &t->b, "lora_B.weight", ML_PARAM_LORA_B, m->n_matrix, m->rows, t->rank);
        if (p->a->dora) place(p, t, &t->m, "lora_magnitude_vector", ML_PARAM_MAGNITUDE, m->n_matrix, 1, m->rows);
    }
}

enum { ROWS = 256 }; /* of a matrix at once */

/* Rows at once: kv_b may be in halves, and is read whole. */
static int64_t rows_at_once(const ml_adapter_module *m)
{
    return m->slot == ML_SLOT_KV_B || m->rows < ROWS ? m->rows : ROWS;
}

size_t ml_adapter_values_bytes(ml_adapter *a)
{
    placement counted = { .a = a };
    place_all(&counted);
    int64_t n_norm = 0;
    for (size_t i = 0; i < a->n_term && a->dora; i++) n_norm += a->term[i].module.n_matrix * a->term[i].module.rows;
    return counted.n_bytes + (size_t)n_norm * sizeof(float) + 64;
}

static ml_status allocate(ml_adapter *a, bool trainable, ml_error *err)
{
    placement counted = { .a = a };
    place_all(&counted);
    size_t n_bytes = ml_adapter_values_bytes(a);
    ML_TRY(ml_arena_init(&a->values, n_bytes, err));
    memset(a->values.base, 0, n_bytes);
    if (trainable) ML_TRY(ml_arena_init(&a->grads, counted.n_bytes + 64, err));
    a->param = ml_calloc(counted.n_param + 1, sizeof *a->param);
    a->names = ml_calloc(counted.n_param + 1, NAME_BYTES);
    a->of = ml_calloc((size_t)a->model->config.num_hidden_layers + 1, sizeof *a->of);
    if (!a->param || !a->names || !a->of) {
        return ml_fail_memory(err, counted.n_param * NAME_BYTES, "an adapter's tables");
    }
    a->n_param = counted.n_param;
    placement placed = { .a = a, .placing = true };
    place_all(&placed);
    float *norm = (float *)(void *)(a->values.base + placed.n_bytes);
    int64_t most = 0;
    for (size_t i = 0; i < a->n_term; i++) {
        ml_adapter_term *t = &a->term[i];
        a->of[t->module.layer][t->module.slot] = t;
        if (!a->dora) continue;
        int64_t n = rows_at_once(&t->module) * t->module.cols;
        most = n > most ? n : most;
        int64_t n_matrix = t->module.n_matrix, rows = t->module.rows;
        t->norm = n_matrix > 1 ? ml_tensor_describe(ML_F32, 2, (int64_t[]){ n_matrix, rows }, norm)
                               : ml_tensor_describe(ML_F32, 1, &rows, norm);
        norm += n_matrix * rows;
    }
    ml_adapter_zero_grads(a);
    if (!a->dora) return ML_OK;
    a->rows = ml_alloc((size_t)most * sizeof *a->rows);
    return a->rows ? ML_OK : ml_fail_memory(err, (size_t)most * sizeof *a->rows, "rows of a weight");
}

ml_status ml_adapter_make_terms(ml_adapter *a, ml_adapter_choose_fn *choose, void *arg, ml_error *err)
{
    ml_adapter_module *module;
    size_t n;
    int64_t rank;
    double alpha;
    ML_TRY(ml_adapter_list_modules(&a->model->config, &module, &n, err));
    a->term = ml_calloc(n + 1, sizeof *a->term);
    for (size_t i = 0; i < n && a->term; i++) {
        if (!choose(arg, &module[i], &rank, &alpha)) continue;
        a->term[a->n_term++] = (ml_adapter_term){
            .module = module[i], .rank = rank, .alpha = alpha, .scale = (float)(alpha / (double)rank)
        };
    }
    ml_free(module);
    return a->term ? ML_OK : ml_fail_memory(err, n * sizeof *a->term, "an adapter's terms");
}

ml_status ml_adapter_make_chosen(const ml_model *m, bool dora, bool trainable, ml_adapter_choose_fn *choose, void *arg,
                                 ml_adapter **out, ml_error *err)
{
    *out = NULL;
    ml_adapter *a = ml_calloc(1, sizeof *a);
    if (!a) return ml_fail_memory(err, sizeof *a, "an adapter");
    a->model = m;
    a->dora = dora;
    ml_status status = ml_adapter_make_terms(a, choose, arg, err);
    if (status == ML_OK) status = allocate(a, trainable, err);
    if (status != ML_OK) {
        ml_adapter_free(a);
        return status;
    }
    *out = a;
    return ML_OK;
}

void ml_adapter_free(ml_adapter *a)
{
    if (!a) return;
    ml_adapter_leave_place(a);
    ml_arena_free(&a->values);
    ml_arena_free(&a->grads);
    for (size_t i = 0; i < a->n_term; i++) ml_free(a->term[i].lacks);
    ml_free(a->term);
    ml_free(a->of);
    ml_free(a->param);
    ml_free(a->names);
    ml_free(a->rows);
    ml_free(a);
}

/* ---- fresh values ---- */

/* One random stream per term: values depend on the seed and the term's place alone. */
static void fill_normal(ml_adapter *a, uint64_t seed)
{
    for (size_t i = 0; i < a->n_term; i++) {
        ml_adapter_term *t = &a->term[i];
        float std = (float)sqrt(2.0 / (double)(t->rank + t->module.cols)), *x = ml_f32(&t->a);
        int64_t n = ml_tensor_count(&t->a);
        ml_rng_fill_normal(seed, i + 1, 0, (uint64_t)n, x);
        for (int64_t j = 0; j < n; j++) x[j] *= std;
    }
}

ml_status ml_adapter_make(const ml_adapter_config *config, const ml_model *m, uint64_t seed, ml_adapter **out,
                          ml_error *err)
{
    ml_adapter_module *module;
    size_t n;
    *out = NULL;
    ML_TRY(ml_adapter_list_modules(&m->config, &module, &n, err));
    ml_status status = check_config(config, module, n, err);
    ml_free(module);
    ML_TRY(status);
    choice ch = make_choice(config);
    ML_TRY(ml_adapter_make_chosen(m, config->dora, true, choose_by_pattern, &ch, out, err));
    ml_adapter *a = *out;
    a->dropout = config->dropout;
    fill_normal(a, seed);
    status = ml_adapter_update_norms(a, err);
    if (status != ML_OK) {
        ml_adapter_free(a);
        *out = NULL;
        return status;
    }
    for (size_t i = 0; i < a->n_term && a->dora; i++) {
        ml_adapter_term *t = &a->term[i];
        memcpy(t->m.data, t->norm.data, (size_t)ml_tensor_count(&t->norm) * sizeof(float));
    }
    return ML_OK;
}

void ml_adapter_zero_grads(ml_adapter *a)
{
    if (a->is_there)
        ml_device_zero(a->device, a->grads_there, a->grads.capacity);
    else if (a->grads.base)
        memset(a->grads.base, 0, a->grads.capacity);
}

int64_t ml_adapter_count(const ml_adapter *a)
{
    int64_t n = 0;
    for (size_t i = 0; i < a->n_param; i++) n += ml_param_count(&a->param[i]);
    return n;
}

/* ---- weights beside them ---- */

/* "model.layers.3.mlp.experts.*.gate_proj", 7 -> "model.layers.3.mlp.experts.7.gate_proj.weight" */
void ml_adapter_name_weight(const ml_adapter_module *m, int64_t i, char name[ML_WEIGHT_NAME_MAX])
{
    const char *star = strchr(m->name, '*');
    if (star) {
        snprintf(name, ML_WEIGHT_NAME_MAX, "%.*s%lld%s.weight", (int)(star - m->name), m->name, (long long)i, star + 1);
    } else {
        snprintf(name, ML_WEIGHT_NAME_MAX, "%s.weight", m->name);
    }
}

ml_status ml_adapter_read_base(const ml_model *m, const ml_adapter_module *module, int64_t i, int64_t row,
                               int64_t n_row, float *out, ml_error *err)
{
    char name[ML_WEIGHT_NAME_MAX];
    ml_adapter_name_weight(module, i, name);
    const ml_weight *w = ml_model_find_weight(m, name);
    if (w) {
        const char *at = (const char *)w->data + (size_t)row * ml_dtype_row_bytes(w->dtype, module->cols);
        ml_convert_to_f32(w->dtype, at, out, n_row * module->cols);
        return ML_OK;
    }
    if (module->slot != ML_SLOT_KV_B) return ml_fail(err, ML_EINVAL, "the model has no weight %s", name);
    size_t n = (size_t)(module->rows * module->cols);
    float *all = ml_alloc(n * sizeof *all);
    if (!all) return ml_fail_memory(err, n * sizeof *all, name);
    ml_model_read_kv_b(m, module->layer, all);
    memcpy(out, all + row * module->cols, (size_t)(n_row * module->cols) * sizeof *out);
    ml_free(all);
    return ML_OK;
}

/* Rows of W + scale B A, from rows of W in place; their norms, without `scale_rows`, or times m / norm with it. */
typedef struct {
    const ml_adapter_term *t;
    int64_t matrix, first; /* the row that w begins with */
    float *w;
    float *norm; /* NULL, or of the rows */
    bool merges;
} row_work;

static void add_term(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const row_work *work = arg;
    const ml_adapter_term *t = work->t;
    int64_t cols = t->module.cols, r = t->rank;
    const float *a = ml_f32(&t->a) + work->matrix * r * cols;
    for (int64_t i = begin; i < end; i++) {
        const float *b = ml_f32(&t->b) + (work->matrix * t->module.rows + work->first + i) * r;
        float *w = work->w + i * cols;
        for (int64_t j = 0; j < r; j++) {
            float factor = t->scale * b[j];
            for (int64_t c = 0; c < cols && factor != 0; c++) w[c] += factor * a[j * cols + c];
        }
        double sum = 0;
        for (int64_t c = 0; c < cols && work->norm; c++) sum += (double)w[c] * (double)w[c];
        if (work->norm) work->norm[i] = (float)sqrt(sum);
        if (!work->merges || !t->m.data) continue;
        int64_t row = work->matrix * t->module.rows + work->first + i;
        float norm = ml_f32(&t->norm)[row];
        float g = norm > 0 ? ml_f32(&t->m)[row] / norm : 1;
        for (int64_t c = 0; c < cols; c++) w[c] *= g;
    }
}

/* Of matrix i of a term. */
static ml_status update_norm(ml_adapter *a, ml_adapter_term *t, int64_t i, ml_error *err)
{
    const ml_adapter_module *m = &t->module;
    float *buffer = a->rows;
    int64_t step = rows_at_once(m);
    for (int64_t row = 0; row < m->rows; row += step) {
        int64_t n = m->rows - row < step ? m->rows - row : step;
        if (m->slot == ML_SLOT_KV_B)
            ml_model_read_kv_b(a->model, m->layer, buffer);
        else
            ML_TRY(ml_adapter_read_base(a->model, m, i, row, n, buffer, err));
        float *norm = ml_f32(&t->norm) + i * m->rows + row;
        row_work work = { .t = t, .matrix = i, .first = row, .w = buffer, .norm = norm };
        ml_parallel_for(n, 8, add_term, &work);
    }
    return ML_OK;
}

ml_status ml_adapter_update_norms(ml_adapter *a, ml_error *err)
{
    for (size_t i = 0; i < a->n_term && a->dora; i++) {
        ml_adapter_term *t = &a->term[i];
        for (int64_t e = 0; e < t->module.n_matrix; e++) {
            int64_t first = e * t->module.rows;
            ML_TRY(update_norm(a, t, e, err));
            if (!t->lacks || !t->lacks[e]) continue;
            memcpy(ml_f32(&t->m) + first, ml_f32(&t->norm) + first, (size_t)t->module.rows * sizeof(float));
        }
    }
    return ML_OK;
}

ml_status ml_adapter_read_merged(const ml_adapter *a, const ml_adapter_term *t, int64_t i, int64_t row, int64_t n_row,
                                 float *out, ml_error *err)
{
    ML_TRY(ml_adapter_read_base(a->model, &t->module, i, row, n_row, out, err));
    row_work work = { .t = t, .matrix = i, .first = row, .w = out, .merges = true };
    ml_parallel_for(n_row, 8, add_term, &work);
    return ML_OK;
}

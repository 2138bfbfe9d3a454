/* moonlight inspect: how a model would lie on a GPU for inference, as the engine decides it. */
#include "cli/inspect.h"
#include "cli/load.h"
#include "format/source.h"
#include "infer/fit.h"

enum { NAME_W = 20, SIZE_W = 12, MOST_ROWS = 4 };

static const char *const mixes[] = { "bf16", "q8_0", "q4_k" };

typedef struct {
    char name[16];
    ml_fit_device_plan plan;
} row;

typedef struct {
    ml_memory_budget budget;
    int64_t available; /* bytes; 0: there is no GPU here and none was given */
    char where[32];
    row row[MOST_ROWS];
    int n_row;
} gpu;

/* The memory that was given, or what is free on the first GPU here. */
static void find_memory(const ml_options *o, gpu *g)
{
    ml_device *device;
    ml_error ignored;
    char choice[256];
    g->available = (int64_t)(ml_options_real(o, "gpu-memory") * 1e9);
    if (g->available > 0 || ml_device_choose("auto", &device, choice, &ignored) != ML_OK || !device) return;
    ml_device_info info = ml_device_get_info(device);
    g->available = info.free_bytes;
    snprintf(g->where, sizeof g->where, "cuda:%d", info.index);
    ml_device_close(device);
}

static ml_status plan_stored(gpu *g, const char *path, ml_error *err)
{
    ml_config config;
    ml_weight_source *source;
    row *r = &g->row[g->n_row++];
    ML_TRY(ml_weight_source_open(path, &config, &source, err));
    snprintf(r->name, sizeof r->name, "as stored");
    ml_status status = ml_fit_plan_device(&config, ML_F32, source, &g->budget, g->available, &r->plan, err);
    source->free(source);
    return status;
}

/* What the types of a GGUF file would make of it; bf16 of a model that no such file can hold. */
static ml_status plan_mixes(gpu *g, const ml_config *c, ml_error *err)
{
    ml_error ignored;
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) {
        row *r = &g->row[g->n_row];
        snprintf(r->name, sizeof r->name, "%s", mixes[i]);
        ml_status status = ml_fit_plan_device_mix(c, mixes[i], &g->budget, g->available, &r->plan, &ignored);
        if (status != ML_OK && i > 0) break;
        if (status != ML_OK) {
            ML_TRY(ml_fit_plan_device(c, ML_BF16, NULL, &g->budget, g->available, &r->plan, err));
        }
        g->n_row++;
    }
    return ML_OK;
}

static void describe(const ml_fit_device_plan *p, char *out, size_t size)
{
    if (!p->fits) {
        snprintf(out, size, "does not fit");
    } else if (p->n_layer_in_host == 0) {
        snprintf(out, size, "all there");
    } else {
        snprintf(out, size, "experts of %lld layers here: %s", (long long)p->n_layer_in_host,
                 ml_cli_bytes(p->host).text);
    }
}

static void print(const gpu *g, const ml_config *c)
{
    const ml_fit_device_plan *first = &g->row[0].plan;
    int64_t usual = c->max_position_embeddings < 8192 ? c->max_position_embeddings : 8192;
    printf("memory to run it on a GPU, at most: %s for keys and values (%s tokens, %s),\n",
           ml_cli_bytes(first->cache).text, ml_cli_digits(g->budget.cache_token ? g->budget.cache_token : usual).text,
           ml_dtype_name(g->budget.kv_dtype));
    printf("%s for computing", ml_cli_bytes(first->work).text);
    if (first->adapters) printf(", %s for adapters", ml_cli_bytes(first->adapters).text);
    printf(", and the weights, of which experts may stay in this machine's memory\n");
    printf("  %-*s %*s %*s", NAME_W, "weights", SIZE_W, "all", SIZE_W, "least");
    if (g->available) {
        printf("  with %s%s%s", ml_cli_bytes(g->available).text, g->where[0] ? " free on " : "", g->where);
    }
    printf("\n");
    for (int i = 0; i < g->n_row; i++) {
        const ml_fit_device_plan *p = &g->row[i].plan;
        char text[96];
        describe(p, text, sizeof text);
        printf("  %-*s %*s %*s%s%s\n", NAME_W, g->row[i].name, SIZE_W, ml_cli_bytes(p->all).text, SIZE_W,
               ml_cli_bytes(p->least).text, g->available ? "  " : "", g->available ? text : "");
    }
    printf("\n");
}

static json_t *row_json(const gpu *g, const row *r)
{
    const ml_fit_device_plan *p = &r->plan;
    json_t *o =
        json_pack("{s:s, s:I, s:I}", "weights", r->name, "all", (json_int_t)p->all, "least", (json_int_t)p->least);
    if (g->available) {
        json_object_update_new(o,
                               json_pack("{s:b, s:I, s:I, s:I}", "fits", p->fits, "gpu", (json_int_t)p->weights, "host",
                                         (json_int_t)p->host, "layers_in_host_memory", (json_int_t)p->n_layer_in_host));
    }
    return o;
}

static void add_json(const gpu *g, json_t *memory)
{
    json_t *list = json_array();
    for (int i = 0; i < g->n_row; i++) json_array_append_new(list, row_json(g, &g->row[i]));
    const ml_fit_device_plan *first = &g->row[0].plan;
    json_t *o =
        json_pack("{s:I, s:I, s:o}", "cache", (json_int_t)first->cache, "work", (json_int_t)first->work, "plans", list);
    if (g->available) json_object_set_new(o, "available", json_integer(g->available));
    if (first->adapters) json_object_set_new(o, "adapters", json_integer(first->adapters));
    json_object_set_new(memory, "inference_gpu", o);
}

ml_status ml_cli_inspect_gpu(const ml_inspection *x, const ml_config *c, json_t *memory, ml_error *err)
{
    gpu g = { .budget = { .kv_dtype = ml_cli_kv_dtype(x->o), .cache_token = ml_options_int(x->o, "context") } };
    g.budget.n_adapter = ml_options_list(x->o, "adapter", &g.budget.adapter);
    find_memory(x->o, &g);
    if (x->weights) ML_TRY(plan_stored(&g, x->weights, err));
    ML_TRY(plan_mixes(&g, c, err));
    if (x->json) {
        add_json(&g, memory);
    } else {
        print(&g, c);
    }
    return ML_OK;
}

/* moonlight inspect: an architecture, what it costs, and the files of its weights. */
#include "base/alloc.h"
#include "cli/inspect.h"
#include "base/file.h"
#include "base/log.h"
#include "format/safetensors.h"
#include "infer/fit.h"
#include "infer/session.h"
#include "model/config_fields.h"
#include "model/diagram.h"
#include "model/kv_cache.h"
#include "train/plan.h"

#include <string.h>

enum { NAME_W = 20 };

/* Layers that are alike. */
typedef struct {
    int64_t first, n;
    bool moe;
    ml_param_groups count; /* of one */
    int64_t total, active; /* of one */
} layer_span;

static int find_spans(const ml_config *c, layer_span span[2])
{
    int64_t n_dense = c->n_routed_experts > 0 ? c->first_k_dense_replace : c->num_hidden_layers;
    int n = 0;
    if (n_dense > 0) span[n++] = (layer_span){ .first = 0, .n = n_dense };
    if (n_dense < c->num_hidden_layers) {
        span[n++] = (layer_span){ .first = n_dense, .n = c->num_hidden_layers - n_dense, .moe = true };
    }
    for (int i = 0; i < n; i++) {
        span[i].count = ml_model_count_layer(c, span[i].first);
        span[i].total = ml_param_groups_total(&span[i].count);
        int64_t idle = c->n_routed_experts - c->num_experts_per_tok;
        span[i].active = span[i].total - (span[i].moe ? idle * ml_model_count_expert(c) : 0);
    }
    return n;
}

/* ---- for a person ---- */

static void print_attention(const ml_config *c)
{
    printf("  %-*s ", NAME_W, "attention");
    if (c->attention == ML_ATTENTION_MLA) {
        printf("latent (MLA): %lld heads of %lld + %lld rotary columns, values of %lld; keys and values in %lld "
               "columns",
               (long long)c->num_attention_heads, (long long)c->qk_nope_head_dim, (long long)c->qk_rope_head_dim,
               (long long)c->v_head_dim, (long long)c->kv_lora_rank);
        if (c->q_lora_rank) printf(", queries in %lld", (long long)c->q_lora_rank);
    } else {
        printf("%s: %lld query heads and %lld key heads of %lld columns",
               c->num_key_value_heads == c->num_attention_heads ? "multi-head" : "grouped (GQA)",
               (long long)c->num_attention_heads, (long long)c->num_key_value_heads, (long long)c->head_dim);
        if (c->attention_bias) printf(", bias");
        if (c->qk_norm) printf(", norm on q and k");
    }
    printf("\n  %-*s RoPE base %.10g on %lld columns (%s)", NAME_W, "positions", c->rope_theta,
           (long long)c->rotary_dim, c->rope_interleaved ? "interleaved pairs" : "halves");
    if (c->yarn_factor != 1) printf(", YaRN x %g", c->yarn_factor);
    printf(", up to %s\n", ml_cli_digits(c->max_position_embeddings).text);
}

static void print_experts(const ml_config *c)
{
    if (c->n_routed_experts == 0 || c->first_k_dense_replace == c->num_hidden_layers) return;
    printf("  %-*s %s%s, top %lld of %lld", NAME_W, "router", c->scoring == ML_SCORE_SIGMOID ? "sigmoid" : "softmax",
           c->correction_bias ? " with a balancing bias" : "", (long long)c->num_experts_per_tok,
           (long long)c->n_routed_experts);
    if (c->n_group > 1) {
        printf(" in the best %lld of %lld groups%s", (long long)c->topk_group, (long long)c->n_group,
               c->group_by_best ? " (by their best expert)" : "");
    }
    printf("%s", c->norm_topk_prob ? ", weights sum to 1" : "");
    if (c->routed_scaling_factor != 1) printf(" x %.10g", c->routed_scaling_factor);
    printf("\n  %-*s %s, %s wide, %s parameters each", NAME_W, "experts", c->expert_relu ? "two-matrix ReLU" : "SwiGLU",
           ml_cli_digits(c->moe_intermediate_size).text, ml_cli_digits(ml_model_count_expert(c)).text);
    if (c->n_shared_experts) printf("; %lld shared", (long long)c->n_shared_experts);
    printf("\n");
}

static void print_architecture(const ml_config *c)
{
    printf("architecture\n  %-*s %s x %s, %s head%s\n", NAME_W, "vocabulary", ml_cli_digits(c->vocab_size).text,
           ml_cli_digits(c->hidden_size).text, c->tie_word_embeddings ? "tied" : "untied",
           c->head_bias ? " with bias" : "");
    print_attention(c);
    print_experts(c);
    printf("  %-*s RMSNorm, epsilon %g\n\n", NAME_W, "norm", c->rms_norm_eps);
}

static void print_layers(const ml_config *c)
{
    layer_span span[2];
    int n = find_spans(c, span);
    printf("layers\n");
    for (int i = 0; i < n; i++) {
        char range[64], kind[96];
        int64_t last = span[i].first + span[i].n - 1;
        snprintf(range, sizeof range, span[i].n > 1 ? "%lld to %lld" : "%lld", (long long)span[i].first,
                 (long long)last);
        if (span[i].moe)
            snprintf(kind, sizeof kind, "%lld experts", (long long)c->n_routed_experts);
        else
            snprintf(kind, sizeof kind, "dense, %s wide", ml_cli_digits(c->intermediate_size).text);
        printf("  %-*s %-20s %16s parameters each", NAME_W, range, kind, ml_cli_digits(span[i].total).text);
        if (span[i].moe) printf(", %s active", ml_cli_digits(span[i].active).text);
        printf("\n");
    }
    printf("\n");
}

static void print_counts(const ml_config *c)
{
    ml_param_counts n = ml_model_count(c);
    ml_param_groups g = ml_model_count_groups(c);
    printf("parameters\n");
    for (int i = 0; i < ML_N_PARAM_GROUP; i++) {
        int64_t count;
        const char *name = ml_param_groups_get(&g, i, &count);
        if (count)
            printf("  %-*s %18s  %5.1f %%\n", NAME_W, name, ml_cli_digits(count).text,
                   100.0 * (double)count / (double)n.total);
    }
    printf("  %-*s %18s\n", NAME_W, "in all", ml_cli_digits(n.total).text);
    printf("  %-*s %18s  without embedding and head\n", NAME_W, "", ml_cli_digits(n.without_embedding).text);
    printf("  %-*s %18s  for each token\n", NAME_W, "active", ml_cli_digits(n.active).text);
    printf("  %-*s %18s  without embedding and head\n\n", NAME_W, "", ml_cli_digits(n.active_without_embedding).text);
}

/* ---- memory ---- */

static const ml_dtype weight_dtypes[] = { ML_F32, ML_BF16 };

typedef struct {
    int64_t batch, seq;
    bool muon;
    ml_recompute recompute;
    const char *recompute_name;
    ml_train_plan plan;
    ml_train_plan gpu[ML_N_PLACE_WAY][2]; /* by way, with fp32 moments and with bf16 ones; products in bf16 */
    int64_t n_adapter;                    /* numbers of a LoRA adapter as sft makes one unless told otherwise */
    ml_train_plan adapter[2];             /* beside each of adapter_weights; total 0: no file has those */
} training;

static const char *const adapter_weights[] = { "bf16", "q4_k" };

static ml_status plan_adapters(const ml_config *c, training *t, ml_error *err)
{
    ml_adapter_config lora = { .rank = 8, .alpha = 16 };
    ml_optim_config adamw = ml_optim_default_config(ML_OPTIM_ADAMW);
    ml_device_plan_choice choice = { .precision = ML_PRECISION_BF16 };
    ML_TRY(ml_adapter_plan(&lora, c, &t->n_adapter, err));
    for (int i = 0; i < 2; i++) {
        ml_error ignored;
        ml_adapter_facts facts = { .n_param = t->n_adapter,
                                   .rank = lora.rank,
                                   .weight_bytes = ml_model_weight_bytes(c, ML_BF16) };
        if (i > 0 && ml_fit_measure_mix(c, adapter_weights[i], &facts.weight_bytes, &ignored) != ML_OK) continue;
        t->adapter[i] = ml_train_make_adapter_device_plan(c, t->batch * t->seq, &adamw, t->recompute, &choice, &facts);
    }
    return ML_OK;
}

static ml_status plan_training(const ml_options *o, const ml_config *c, training *out, ml_error *err)
{
    *out = (training){ .batch = ml_options_int(o, "train.batch"),
                       .seq = ml_options_int(o, "train.seq"),
                       .muon = !strcmp(ml_options_text(o, "optim.name"), "muon"),
                       .recompute_name = ml_options_text(o, "train.recompute"),
                       .recompute = ml_train_parse_recompute(ml_options_text(o, "train.recompute")) };
    /* Activations of a token are fewer than the parameters it meets: this keeps the plan's products in 64 bits. */
    double tokens = (double)out->batch * (double)out->seq;
    if (tokens * (double)ml_model_count(c).active > 1e17) {
        return ml_fail(err, ML_EINVAL, "--train.batch %lld times --train.seq %lld is no micro-step that fits anywhere",
                       (long long)out->batch, (long long)out->seq);
    }
    out->plan = ml_train_make_plan(c, out->batch * out->seq, out->muon, out->recompute);
    ml_optim_config optim = ml_optim_default_config(out->muon ? ML_OPTIM_MUON : ML_OPTIM_ADAMW);
    for (int way = 0; way < ML_N_PLACE_WAY; way++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            ml_device_plan_choice choice = ml_train_place_way(way, ML_PRECISION_BF16, bf16);
            out->gpu[way][bf16] = ml_train_make_device_plan(c, out->batch * out->seq, &optim, out->recompute, &choice);
        }
    }
    return plan_adapters(c, out, err);
}

static void print_gpu_memory(const training *t)
{
    printf(
        "memory to train it on a GPU, at most, the same micro-step (train.memory: GPU, and beside it this machine)\n");
    for (int way = 0; way < ML_N_PLACE_WAY; way++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const ml_train_plan *p = &t->gpu[way][bf16];
            printf("  %-*s %12s", NAME_W, bf16 ? "" : ml_train_place_way_name(way), ml_cli_bytes(p->total).text);
            printf(" %12s%s\n", ml_cli_bytes(p->host).text, bf16 ? "  moments in bf16" : "");
        }
    }
    printf("\nmemory to train LoRA of rank 8 on self_attn.* there (%s numbers), beside weights in\n",
           ml_cli_digits(t->n_adapter).text);
    for (int i = 0; i < 2; i++) {
        if (t->adapter[i].total == 0) continue;
        printf("  %-*s %12s\n", NAME_W, adapter_weights[i], ml_cli_bytes(t->adapter[i].total).text);
    }
    printf("\n");
}

static void print_memory_to_run(const ml_config *c)
{
    int64_t token_bytes = ml_kv_cache_token_bytes(c, ML_SESSION_KV);
    printf("memory to run it\n");
    for (size_t i = 0; i < sizeof weight_dtypes / sizeof weight_dtypes[0]; i++) {
        printf("  %-*s %12s in %s\n", NAME_W, i ? "" : "weights",
               ml_cli_bytes(ml_model_weight_bytes(c, weight_dtypes[i])).text,
               i ? "bf16 or f16" : ml_dtype_name(weight_dtypes[i]));
    }
    printf("  %-*s %12s a token (%s)\n", NAME_W, "keys and values", ml_cli_bytes(token_bytes).text,
           ml_dtype_name(ML_SESSION_KV));
    printf("  %-*s %12s at %s tokens\n\n", NAME_W, "", ml_cli_bytes(token_bytes * c->max_position_embeddings).text,
           ml_cli_digits(c->max_position_embeddings).text);
}

static void print_memory_to_train(const training *t)
{
    const ml_train_plan *p = &t->plan;
    printf("memory to train it (%lld x %lld tokens a micro-step, %s, recompute %s)\n", (long long)t->batch,
           (long long)t->seq, t->muon ? "Muon" : "AdamW", t->recompute_name);
    printf("  %-*s %12s\n", NAME_W, "weights", ml_cli_bytes(p->weights).text);
    printf("  %-*s %12s\n", NAME_W, "gradients", ml_cli_bytes(p->gradients).text);
    printf("  %-*s %12s\n", NAME_W, "optimizer", ml_cli_bytes(p->optimizer).text);
    printf("  %-*s %12s at most\n", NAME_W, "activations", ml_cli_bytes(p->activations).text);
    printf("  %-*s %12s at most\n", NAME_W, "their gradients", ml_cli_bytes(p->activation_gradients).text);
    printf("  %-*s %12s at most\n\n", NAME_W, "in all", ml_cli_bytes(p->total).text);
    print_gpu_memory(t);
}

/* ---- files ---- */

typedef struct {
    bool present;
    size_t n_tensor;
    int64_t n_bytes, n_element;
    int64_t by_dtype[ML_ST_N_DTYPE]; /* elements */
} weight_files;

static bool holds(const char *folder, const char *name)
{
    char path[ML_PATH_MAX];
    ml_error ignored;
    return ml_path_join(path, folder, name, &ignored) == ML_OK && ml_path_exists(path);
}

static ml_status read_files(const char *folder, weight_files *f, ml_error *err)
{
    *f = (weight_files){ 0 };
    if (!holds(folder, "model.safetensors") && !holds(folder, "model.safetensors.index.json")) return ML_OK;
    ml_safetensors *file;
    ML_TRY(ml_safetensors_open(&file, folder, err));
    f->present = true;
    f->n_tensor = ml_safetensors_count(file);
    for (size_t i = 0; i < f->n_tensor; i++) {
        const ml_st_tensor *t = ml_safetensors_at(file, i);
        f->n_bytes += (int64_t)t->n_bytes;
        f->n_element += t->n_element;
        f->by_dtype[t->dtype] += t->n_element;
    }
    ml_safetensors_close(file);
    return ML_OK;
}

static void print_files(const weight_files *f)
{
    if (!f->present) {
        printf("weights\n  none in this folder\n\n");
        return;
    }
    printf("weights\n  %-*s %s in %zu tensors\n", NAME_W, "data", ml_cli_bytes(f->n_bytes).text, f->n_tensor);
    for (int i = 0; i < ML_ST_N_DTYPE; i++) {
        if (!f->by_dtype[i]) continue;
        printf("  %-*s %18s elements\n", NAME_W, ml_st_dtype_name((ml_st_dtype)i), ml_cli_digits(f->by_dtype[i]).text);
    }
    printf("\n");
}

/* ---- for a program ---- */

static json_t *architecture_json(const ml_config *c)
{
    json_t *out = json_object();
    for (size_t i = 0; i < ml_config_n_field; i++) {
        const ml_config_field *f = &ml_config_fields[i];
        json_t *value;
        if (f->type == ML_FIELD_REAL)
            value = json_real(*ml_config_field_real(c, f));
        else if (f->type == ML_FIELD_BOOL)
            value = json_boolean(*ml_config_field_int(c, f));
        else if (f->type == ML_FIELD_CHOICE)
            value = json_string(f->words[*ml_config_field_int(c, f)]);
        else
            value = json_integer(*ml_config_field_int(c, f));
        json_object_set_new(out, f->name, value);
    }
    return out;
}

static json_t *groups_json(const ml_param_groups *g)
{
    json_t *out = json_object();
    for (int i = 0; i < ML_N_PARAM_GROUP; i++) {
        int64_t count;
        char key[32];
        snprintf(key, sizeof key, "%s", ml_param_groups_get(g, i, &count));
        for (char *p = key; *p; p++) *p = *p == ' ' ? '_' : *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
        json_object_set_new(out, key, json_integer(count));
    }
    return out;
}

static json_t *layers_json(const ml_config *c)
{
    layer_span span[2];
    int n = find_spans(c, span);
    json_t *out = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(out, json_pack("{s:I, s:I, s:s, s:I, s:I, s:o}", "first", (json_int_t)span[i].first,
                                             "count", (json_int_t)span[i].n, "kind", span[i].moe ? "moe" : "dense",
                                             "n_params", (json_int_t)span[i].total, "n_params_active",
                                             (json_int_t)span[i].active, "groups", groups_json(&span[i].count)));
    }
    return out;
}

static json_t *gpu_json(const training *t)
{
    json_t *list = json_array();
    for (int way = 0; way < ML_N_PLACE_WAY; way++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const ml_train_plan *p = &t->gpu[way][bf16];
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I}", "memory", ml_train_place_way_name(way),
                                                  "moments", bf16 ? "bf16" : "f32", "gpu", (json_int_t)p->total, "host",
                                                  (json_int_t)p->host));
        }
    }
    return list;
}

static json_t *adapter_json(const training *t)
{
    json_t *list = json_array();
    for (int i = 0; i < 2; i++) {
        if (t->adapter[i].total == 0) continue;
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "weights", adapter_weights[i], "n_params",
                                              (json_int_t)t->n_adapter, "gpu", (json_int_t)t->adapter[i].total));
    }
    return list;
}

static json_t *memory_json(const ml_config *c, const training *t)
{
    const ml_train_plan *p = &t->plan;
    int64_t token_bytes = ml_kv_cache_token_bytes(c, ML_SESSION_KV);
    json_t *run = json_pack(
        "{s:{s:I, s:I, s:I}, s:s, s:I, s:I}", "weights", "f32", (json_int_t)ml_model_weight_bytes(c, ML_F32), "bf16",
        (json_int_t)ml_model_weight_bytes(c, ML_BF16), "f16", (json_int_t)ml_model_weight_bytes(c, ML_F16),
        "kv_cache_dtype", ml_dtype_name(ML_SESSION_KV), "kv_cache_per_token", (json_int_t)token_bytes,
        "kv_cache_full_context", (json_int_t)(token_bytes * c->max_position_embeddings));
    json_t *train = json_pack("{s:I, s:I, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "batch", (json_int_t)t->batch,
                              "seq", (json_int_t)t->seq, "optimizer_name", t->muon ? "muon" : "adamw", "recompute",
                              t->recompute != ML_RECOMPUTE_OFF, "weights", (json_int_t)p->weights, "gradients",
                              (json_int_t)p->gradients, "optimizer", (json_int_t)p->optimizer, "activations",
                              (json_int_t)p->activations, "activation_gradients", (json_int_t)p->activation_gradients,
                              "total", (json_int_t)p->total);
    return json_pack("{s:o, s:o, s:o, s:o}", "inference", run, "training", train, "training_gpu", gpu_json(t),
                     "adapter_gpu", adapter_json(t));
}

static json_t *files_json(const weight_files *f)
{
    json_t *dtypes = json_object();
    for (int i = 0; i < ML_ST_N_DTYPE; i++) {
        if (f->by_dtype[i]) json_object_set_new(dtypes, ml_st_dtype_name((ml_st_dtype)i), json_integer(f->by_dtype[i]));
    }
    return json_pack("{s:I, s:I, s:I, s:o}", "n_bytes", (json_int_t)f->n_bytes, "n_tensors", (json_int_t)f->n_tensor,
                     "n_elements", (json_int_t)f->n_element, "dtypes", dtypes);
}

static void add_json(json_t *object, const char *name, const ml_config *c, const training *t, const weight_files *f)
{
    ml_param_counts n = ml_model_count(c);
    ml_param_groups g = ml_model_count_groups(c);
    json_object_set_new(object, "name", json_string(name));
    json_object_set_new(object, "class", json_string(ml_config_class_name(c)));
    json_object_set_new(object, "n_params", json_integer(n.total));
    json_object_set_new(object, "n_params_active", json_integer(n.active));
    json_object_set_new(object, "n_params_without_embedding", json_integer(n.without_embedding));
    json_object_set_new(object, "n_params_active_without_embedding", json_integer(n.active_without_embedding));
    json_object_set_new(object, "groups", groups_json(&g));
    json_object_set_new(object, "layers", layers_json(c));
    json_object_set_new(object, "architecture", architecture_json(c));
    json_object_set_new(object, "memory", memory_json(c, t));
    if (f->present) json_object_set_new(object, "weights", files_json(f));
}

/* ---- all of it ---- */

static ml_status write_diagram(const ml_inspection *x, const char *name, const ml_config *c, ml_error *err)
{
    const char *path = ml_options_text(x->o, "svg");
    if (!path) return ML_OK;
    char *svg;
    size_t n_bytes;
    ML_TRY(ml_diagram_make(c, name, &svg, &n_bytes, err));
    ml_status status = ml_file_replace(path, svg, n_bytes, err);
    ml_free(svg);
    if (status == ML_OK && !x->json) ml_log_info("the architecture is drawn in %s", path);
    return status;
}

ml_status ml_cli_inspect_model(ml_inspection *x, const char *name, const ml_config *c, const char *folder,
                               ml_error *err)
{
    training t;
    weight_files files = { 0 };
    ML_TRY(plan_training(x->o, c, &t, err));
    if (folder) ML_TRY(read_files(folder, &files, err));
    if (files.present) x->weights = folder;
    if (x->json) {
        add_json(x->object, name, c, &t, &files);
        ML_TRY(ml_cli_inspect_gpu(x, c, json_object_get(x->object, "memory"), err));
    } else {
        printf("%s: %s, %s layers %s wide\n\n", name, ml_config_class_name(c), ml_cli_digits(c->num_hidden_layers).text,
               ml_cli_digits(c->hidden_size).text);
        print_architecture(c);
        print_layers(c);
        print_counts(c);
        print_memory_to_run(c);
        ML_TRY(ml_cli_inspect_gpu(x, c, NULL, err));
        print_memory_to_train(&t);
        if (folder) print_files(&files);
    }
    bool tokenizer = folder && (holds(folder, "tokenizer.json") || holds(folder, "tiktoken.model"));
    if (tokenizer) ML_TRY(ml_cli_inspect_tokenizer(x, folder, err));
    return write_diagram(x, name, c, err);
}

#include "train/plan.h"

#include "base/thread.h"
#include "optim/newton_schulz.h"

#include <stdio.h>
#include <string.h>

/* Floats per token that a layer makes, in the order of model/forward.c. */
typedef struct {
    int64_t values;  /* kept for the backward, and each has a gradient there */
    int64_t others;  /* kept, without a gradient: statistics, ids, what an operator saves for itself */
    int64_t scratch; /* of the operator that needs most */
} layer_floats;

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void add_attention(const ml_config *c, layer_floats *l)
{
    int64_t n_head = c->num_attention_heads, d_v = ml_config_d_v(c);
    l->values += n_head * d_v + c->hidden_size; /* the heads, their projection */
    l->others += n_head;                        /* log-sums */
    if (c->attention == ML_ATTENTION_MLA) {
        int64_t n_q = n_head * ml_config_d_qk(c);
        l->values += n_q + (c->q_lora_rank ? 2 * c->q_lora_rank : 0) + 2 * c->kv_lora_rank + c->qk_rope_head_dim +
                     n_head * (c->qk_nope_head_dim + d_v);
        l->others += 2;
    } else {
        int64_t n_qk = (n_head + c->num_key_value_heads) * c->head_dim;
        l->values += n_qk + c->num_key_value_heads * c->head_dim + (c->qk_norm ? n_qk : 0);
        l->others += c->qk_norm ? n_head + c->num_key_value_heads : 0;
    }
    l->scratch = larger(l->scratch, 2 * c->rotary_dim); /* sines and cosines */
}

static void add_experts(const ml_config *c, layer_floats *l)
{
    int64_t k = c->num_experts_per_tok, f = c->moe_intermediate_size;
    l->values += c->n_routed_experts + k + c->hidden_size;    /* scores, weights, result */
    l->others += 2 * k + k * f * (c->expert_relu ? 1 : 2);    /* ids, order, pre-activations */
    l->scratch = larger(l->scratch, k * (f + 1));             /* activations */
    l->scratch = larger(l->scratch, 3 * c->n_routed_experts); /* of the router and its loss */
    if (c->n_shared_experts) l->values += 3 * c->n_shared_experts * f + 2 * c->hidden_size;
}

static layer_floats count_attention_block(const ml_config *c)
{
    layer_floats l = { .values = 2 * c->hidden_size, .others = 1 }; /* norm, sum */
    add_attention(c, &l);
    return l;
}

static layer_floats count_layer(const ml_config *c, bool is_moe)
{
    layer_floats l = { .values = 4 * c->hidden_size, .others = 2 }; /* two norms, two sums */
    add_attention(c, &l);
    if (is_moe) {
        add_experts(c, &l);
    } else {
        l.values += 3 * c->intermediate_size + c->hidden_size;
    }
    return l;
}

/* The head: going forward a tile of logits for each thread and two numbers per token and tile, going backward a block
 * of logits (ops/cpu/logprob.c). */
static int64_t head_scratch(const ml_config *c, int64_t tokens)
{
    const int64_t tile_tokens = 256, tile_vocab = 512, block_tokens = 512, block_vocab = 2560;
    int64_t n_tile = (c->vocab_size + tile_vocab - 1) / tile_vocab;
    int64_t forward = ml_thread_count() * tile_tokens * tile_vocab + tokens * (2 * n_tile + 2);
    int64_t backward = (tokens < block_tokens ? tokens : block_tokens) * block_vocab + tokens;
    return larger(forward, backward);
}

/* Newton-Schulz iterations of the largest matrix in every thread. */
static int64_t muon_scratch(const ml_config *c)
{
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, most = 0;
    int64_t dense = c->first_k_dense_replace > 0 || c->n_routed_experts == 0 ? c->intermediate_size : 0;
    int64_t shared = c->n_shared_experts * c->moe_intermediate_size;
    bool mla = c->attention == ML_ATTENTION_MLA;
    const int64_t shape[][2] = { { dense, d },
                                 { shared, d },
                                 { c->moe_intermediate_size, d },
                                 { c->n_routed_experts, d },
                                 { n_head * ml_config_d_qk(c), mla && c->q_lora_rank ? c->q_lora_rank : d },
                                 { n_head * ml_config_d_v(c), d },
                                 { c->q_lora_rank, d },
                                 { mla ? c->kv_lora_rank + c->qk_rope_head_dim : 0, d },
                                 { mla ? n_head * (c->qk_nope_head_dim + c->v_head_dim) : 0, c->kv_lora_rank } };
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        int64_t rows = shape[i][0], cols = shape[i][1];
        if (rows && cols) most = larger(most, rows * cols + 16 + ml_newton_schulz_scratch(rows, cols));
    }
    return ml_thread_count() * most;
}

/* Norms and biases, which Muon leaves to AdamW; without those of the router, which have no moments. */
static int64_t count_vectors(const ml_config *c)
{
    int64_t layer = 2 * c->hidden_size + c->q_lora_rank + c->kv_lora_rank + (c->qk_norm ? 2 * c->head_dim : 0);
    if (c->attention_bias) layer += (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
    return c->num_hidden_layers * layer + c->hidden_size;
}

ml_recompute ml_train_parse_recompute(const char *name)
{
    static const char *const names[] = { "off", "on", "attention", "mlp" };
    for (int i = 0; i < 4; i++) {
        if (!strcmp(name, names[i])) return (ml_recompute)i;
    }
    return ML_RECOMPUTE_OFF;
}

ml_train_plan ml_train_make_plan(const ml_config *c, int64_t tokens, bool muon, ml_recompute recompute)
{
    /* Descriptions of tensors and of operators, and the scratch of attention: per layer, and per thread. */
    const int64_t descriptions = 32 << 10, blocks = 4 * 64 * (4 * larger(ml_config_d_qk(c), ml_config_d_v(c)) + 256);
    ml_param_counts n = ml_model_count(c);
    int64_t tables = n.total - n.without_embedding, d = c->hidden_size, n_layer = c->num_hidden_layers;
    int64_t all = 0, most = 0, most_values = 0, most_scratch = 0; /* most: computed again at once */
    layer_floats attention = count_attention_block(c);
    for (int64_t i = 0; i < n_layer; i++) {
        layer_floats l = count_layer(c, ml_config_layer_is_moe(c, i));
        int64_t layer = l.values + l.others, first = attention.values + attention.others, again = 0;
        if (recompute == ML_RECOMPUTE_LAYERS) again = layer;
        if (recompute == ML_RECOMPUTE_ATTENTION) again = first;
        if (recompute == ML_RECOMPUTE_MLP) again = layer - first;
        all += layer - again + (again ? d : 0); /* what comes of it is kept */
        most = larger(most, again);
        most_values = larger(most_values, l.values);
        most_scratch = larger(most_scratch, l.scratch);
    }
    int64_t kept = all + 2 * d + 8; /* and the ends: embedding, norm, loss */
    int64_t scratch = larger(tokens * (most_scratch + most), head_scratch(c, tokens));
    ml_train_plan plan = {
        .weights = 4 * n.total,
        .gradients = 4 * n.total,
        .optimizer = muon ? 4 * (n.total + tables + count_vectors(c) + muon_scratch(c)) : 8 * n.total,
        .activations = 4 * (tokens * kept + scratch) + (n_layer + 1) * descriptions + ml_thread_count() * blocks,
        .activation_gradients = 4 * tokens * (most_values + 3 * d) + descriptions,
    };
    plan.total = plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.activation_gradients;
    return plan;
}

/* Elements of the largest matrix that Muon has. */
static int64_t largest_matrix(const ml_config *c)
{
    int64_t d = c->hidden_size, n_head = c->num_attention_heads,
            shared = c->n_shared_experts * c->moe_intermediate_size;
    int64_t rows = larger(larger(c->intermediate_size, shared), larger(c->moe_intermediate_size, c->n_routed_experts));
    rows = larger(rows, larger(n_head * ml_config_d_qk(c), n_head * ml_config_d_v(c)));
    if (c->attention == ML_ATTENTION_MLA) rows = larger(rows, n_head * (c->qk_nope_head_dim + c->v_head_dim));
    return rows * larger(d, c->q_lora_rank);
}

/* Floats of scratch that operators on a device take: of the head, whose logits are made in pieces of a quarter of a
 * GiB; of experts, rows of their input, both activations and gradients; of attention and the norms. */
static int64_t device_scratch(const ml_config *c, int64_t tokens)
{
    const int64_t head_bytes = (int64_t)256 << 20, least_rows = 32;
    int64_t d = c->hidden_size, f = c->moe_intermediate_size, rows = tokens * c->num_experts_per_tok;
    int64_t dense = larger(c->intermediate_size, c->n_shared_experts * f), n_head = c->num_attention_heads;
    int64_t d_qk = ml_config_d_qk(c), d_v = ml_config_d_v(c);
    int64_t head = larger(head_bytes / 4, least_rows * c->vocab_size) + tokens * d;
    int64_t experts = c->n_routed_experts ? rows * (2 * d + 6 * f + 16) + tokens * (8 * c->n_routed_experts + 64) : 0;
    int64_t attention = tokens * n_head * (2 * d_qk + 3 * d_v + 8);
    int64_t linear = tokens * (3 * dense + 2 * d) + (tokens / 32 + 1) * d;
    return larger(larger(head, experts), larger(attention, linear));
}

/* Elements of the largest weights that one product reads together: of a layer, all experts of one, or the head. */
static int64_t widest_weights(const ml_config *c)
{
    int64_t experts = c->n_routed_experts * ml_model_count_expert(c);
    return larger(larger(experts, c->vocab_size * c->hidden_size), 3 * c->intermediate_size * c->hidden_size);
}

ml_train_plan ml_train_make_device_plan(const ml_config *c, int64_t tokens, const ml_optim_config *optim,
                                        ml_recompute recompute, const ml_device_plan_choice *choice)
{
    bool muon = optim->name == ML_OPTIM_MUON;
    ml_train_plan plan = ml_train_make_plan(c, tokens, muon, recompute);
    ml_param_counts n = ml_model_count(c);
    ml_place_bytes place = ml_model_plan_place(c, choice->placing);
    int64_t n_adamw = muon ? n.total - n.without_embedding + count_vectors(c) : n.total;
    ml_optim_device_memory o = ml_optim_plan_device(optim, &choice->moments, muon ? n.without_embedding : 0, n_adamw,
                                                    largest_matrix(c), choice->placing == ML_PLACE_SPLIT_HOST);
    bool copies = choice->precision == ML_PRECISION_BF16 && choice->placing == ML_PLACE_F32;
    int64_t bf16 = copies ? 2 * widest_weights(c) : 0; /* of weights that have none */
    plan.weights = place.weights;
    plan.gradients = place.gradients;
    plan.optimizer = o.state + o.slots;
    /* The optimizer's scratch is that of the activations, of which none is left then. */
    plan.activations = larger(plan.activations + 4 * device_scratch(c, tokens) + bf16, o.scratch) + (1 << 20);
    plan.activation_gradients += 1 << 20;
    plan.total = plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.activation_gradients;
    plan.host = 4 * n.total + place.pinned + o.pinned;
    return plan;
}

int64_t ml_train_widest_bytes(const ml_config *c)
{
    return 4 * widest_weights(c);
}

/* Of weights that no product reads as they are. */
static int64_t conversion_bytes(const ml_config *c, ml_precision precision)
{
    return (precision == ML_PRECISION_BF16 ? 2 : 4) * widest_weights(c);
}

int64_t ml_train_plan_device_pass(const ml_config *c, int64_t tokens, ml_precision precision)
{
    ml_train_plan plan = ml_train_make_plan(c, tokens, false, ML_RECOMPUTE_LAYERS);
    return plan.activations + 4 * device_scratch(c, tokens) + conversion_bytes(c, precision) + (1 << 20);
}

ml_adapter_facts ml_train_get_adapter_facts(const ml_adapter *a)
{
    const ml_model *m = a->model;
    ml_adapter_facts f = { .n_param = ml_adapter_count(a), .dora = a->dora };
    for (size_t i = 0; i < a->n_term; i++) f.rank = larger(f.rank, a->term[i].rank);
    for (size_t i = 0; i < m->n_weight; i++) {
        f.weight_bytes += (int64_t)ml_dtype_row_bytes(m->weight[i].dtype, ml_weight_count(&m->weight[i]));
    }
    return f;
}

/* Floats that terms take beside the products: h of each that a layer can have is kept for the backward; of experts,
 * rows with elements dropped, and with magnitudes their products and what these are of. */
static int64_t term_floats(const ml_config *c, int64_t tokens, ml_recompute recompute, const ml_adapter_facts *a)
{
    const int64_t n_dense = 13;
    int64_t k = c->num_experts_per_tok, n_layer = recompute == ML_RECOMPUTE_LAYERS ? 1 : c->num_hidden_layers;
    int64_t kept = n_layer * (n_dense + 3 * k) * a->rank;
    int64_t widest = larger(c->hidden_size, c->moe_intermediate_size);
    int64_t scratch = k * (widest + 3 * a->rank + (a->dora ? c->hidden_size + 2 * c->moe_intermediate_size : 0));
    return tokens * (kept + scratch + 2 * c->hidden_size + n_dense * a->rank);
}

ml_train_plan ml_train_make_adapter_device_plan(const ml_config *c, int64_t tokens, const ml_optim_config *optim,
                                                ml_recompute recompute, const ml_device_plan_choice *choice,
                                                const ml_adapter_facts *a)
{
    ml_train_plan plan = ml_train_make_plan(c, tokens, false, recompute);
    ml_train_plan_adapter(&plan, c, a->n_param, a->weight_bytes, a->dora, tokens, recompute);
    ml_optim_device_memory o = ml_optim_plan_device(optim, &choice->moments, 0, a->n_param, 0, false);
    int64_t copies = conversion_bytes(c, choice->precision);
    int64_t floats = device_scratch(c, tokens) + term_floats(c, tokens, recompute, a);
    plan.optimizer = o.state + o.slots;
    plan.activations = larger(plan.activations + 4 * floats + copies, o.scratch) + (1 << 20);
    plan.activation_gradients += 1 << 20;
    plan.total = plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.activation_gradients;
    plan.host = 12 * a->n_param + o.pinned; /* the numbers, where files are read into and written from, and norms */
    return plan;
}

const char *ml_train_place_way_name(int way)
{
    static const char *const name[ML_N_PLACE_WAY] = { "plain", "split", "host" };
    return name[way];
}

ml_device_plan_choice ml_train_place_way(int way, ml_precision precision, bool bf16_moments)
{
    static const ml_placing halves[ML_N_PLACE_WAY] = { ML_PLACE_HALF, ML_PLACE_SPLIT, ML_PLACE_SPLIT_HOST };
    return (ml_device_plan_choice){ .precision = precision,
                                    .placing = precision == ML_PRECISION_BF16 ? halves[way] : ML_PLACE_F32,
                                    .moments = { .bf16 = bf16_moments, .here = way == ML_N_PLACE_WAY - 1 } };
}

ml_device_plan_choice ml_train_choose_place(const ml_config *c, int64_t tokens, const ml_optim_config *optim,
                                            ml_recompute recompute, ml_precision precision, bool bf16_moments,
                                            int64_t available, int64_t host)
{
    ml_device_plan_choice choice = { 0 };
    for (int way = 0; way < ML_N_PLACE_WAY; way++) {
        choice = ml_train_place_way(way, precision, bf16_moments);
        ml_train_plan plan = ml_train_make_device_plan(c, tokens, optim, recompute, &choice);
        if (plan.total <= available && plan.host <= host) break;
    }
    return choice;
}

ml_status ml_train_check_device_plan(const ml_train_plan *plan, int64_t available, int64_t host, int64_t batch,
                                     ml_recompute recompute, const ml_device_plan_choice *choice, ml_error *err)
{
    int64_t fixed = plan->weights + plan->gradients + plan->optimizer;
    if (plan->host > host) {
        return ml_fail(
            err, ML_ENOMEM,
            "training needs %.1f GB of this machine's memory beside the GPU's, but %.1f GB are available: %suse "
            "--device cpu",
            (double)plan->host / 1e9, (double)host / 1e9,
            choice->moments.bf16 || !choice->moments.here ? "" : "set optim.moments bf16, or ");
    }
    if (plan->total <= available) return ML_OK;
    const char *remedy = fixed > available && !choice->moments.here ? "set train.memory auto or host"
                         : fixed > available                        ? "use a GPU with more memory"
                         : batch > 1                        ? "use a smaller train.batch with a larger train.accumulate"
                         : recompute == ML_RECOMPUTE_LAYERS ? "use a smaller train.seq"
                                                            : "set train.recompute on, or use a smaller train.seq";
    return ml_fail(err, ML_ENOMEM,
                   "training needs %.1f GB of the GPU's memory (%.1f GB of it weights, gradients and optimizer state) "
                   "but %.1f GB are available: %s, or use --device cpu",
                   (double)plan->total / 1e9, (double)fixed / 1e9, (double)available / 1e9, remedy);
}

void ml_train_plan_adapter(ml_train_plan *plan, const ml_config *c, int64_t n_param, int64_t weight_bytes, bool dora,
                           int64_t tokens, ml_recompute recompute)
{
    int64_t n_layer = recompute == ML_RECOMPUTE_LAYERS ? 1 : c->num_hidden_layers, d = c->hidden_size,
            n_head = c->num_attention_heads;
    int64_t n_q = n_head * ml_config_d_qk(c), n_v = n_head * ml_config_d_v(c), joined = 0;
    if (c->attention == ML_ATTENTION_MLA) {
        joined = n_head * (c->qk_nope_head_dim + c->v_head_dim) * c->kv_lora_rank; /* kv_b, where a file has halves */
    }
    /* DoRA keeps every product that it scales; a product's input with elements dropped, or what came of the rows of the
     * experts, is scratch. */
    int64_t dense = c->n_routed_experts ? c->n_shared_experts * c->moe_intermediate_size : c->intermediate_size;
    int64_t products =
        n_q + 2 * n_v + c->kv_lora_rank + c->q_lora_rank + 2 * d + 2 * larger(dense, c->intermediate_size);
    int64_t scratch = larger(larger(d, n_v), larger(dense, c->intermediate_size));
    /* Of experts: what each row adds to the magnitudes' gradients, and the gradient of its products. */
    if (dora) scratch += c->num_experts_per_tok * (2 * c->moe_intermediate_size + d);
    plan->weights = weight_bytes + 4 * n_param;
    plan->gradients = 4 * n_param;
    plan->optimizer = 8 * n_param;
    plan->activations += 4 * (n_layer * (joined + (dora ? tokens * products : 0)) + tokens * scratch);
    plan->total = plan->weights + plan->gradients + plan->optimizer + plan->activations + plan->activation_gradients;
}

ml_status ml_train_check_plan(const ml_train_plan *plan, int64_t available, int64_t batch, ml_recompute recompute,
                              ml_error *err)
{
    if (plan->total <= available) return ML_OK;
    int64_t fixed = plan->weights + plan->gradients + plan->optimizer;
    const char *remedy = fixed > available                  ? "this model needs a machine with more memory"
                         : batch > 1                        ? "use a smaller train.batch with a larger train.accumulate"
                         : recompute == ML_RECOMPUTE_LAYERS ? "use a smaller train.seq"
                                                            : "set train.recompute on, or use a smaller train.seq";
    return ml_fail(err, ML_ENOMEM,
                   "training needs %.1f GB (%.1f GB of it weights, gradients and optimizer state) but "
                   "%.1f GB are available: %s",
                   (double)plan->total / 1e9, (double)fixed / 1e9, (double)available / 1e9, remedy);
}

int ml_train_format_plan(const ml_train_plan *plan, char *text, size_t size)
{
    int n =
        snprintf(text, size,
                 "memory: weights %.1f MB, gradients %.1f MB, optimizer %.1f MB, activations up to %.1f MB, their "
                 "gradients up to %.1f MB; in all up to %.1f MB",
                 (double)plan->weights / 1e6, (double)plan->gradients / 1e6, (double)plan->optimizer / 1e6,
                 (double)plan->activations / 1e6, (double)plan->activation_gradients / 1e6, (double)plan->total / 1e6);
    if (n < 0 || (size_t)n >= size) return n;
    if (plan->samples > 0)
        n += snprintf(text + n, size - (size_t)n, "; %.1f MB of it for samples", (double)plan->samples / 1e6);
    if (plan->host == 0 || (size_t)n >= size) return n;
    return n +
           snprintf(text + n, size - (size_t)n, "; beside that %.1f MB of this machine's", (double)plan->host / 1e6);
}

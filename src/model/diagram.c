/* Layout: the residual stream is a vertical line on the left, from the embedding to the head.  What a layer adds to
 * it branches off to the right, through a norm into a block, and comes back at a plus sign. */
#include "model/diagram.h"

#include "base/alloc.h"
#include "model/count.h"
#include "ops/ops.h"

#include <math.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 900,
    EDGE = 36,    /* of the boxes at the two ends */
    STREAM = 88,  /* x of the residual stream */
    NORM_X = 124, /* boxes beside the stream */
    NORM_W = 128,
    BLOCK_X = 284, /* blocks: attention, experts, MLP */
    BLOCK_W = WIDTH - EDGE - 24 - BLOCK_X,
    PAD = 16,    /* between a block and its boxes */
    HEAD_H = 34, /* of a block's heading */
    GAP = 22,    /* between boxes; arrows need it */
    LINE_H = 17,
};

typedef struct {
    FILE *out;
    const ml_config *c;
    int y;       /* where the next thing goes */
    bool failed; /* no memory for a part */
} drawing;

/* ---- text ---- */

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        default:
            if ((unsigned char)*text >= 0x20) fputc(*text, out);
        }
    }
}

static void put_text(const drawing *g, int x, int y, const char *class, const char *anchor, const char *text)
{
    fprintf(g->out, "<text x=\"%d\" y=\"%d\" class=\"%s\" text-anchor=\"%s\">", x, y, class, anchor);
    put_escaped(g->out, text);
    fputs("</text>\n", g->out);
}

/* 1408, 163,840: digits in threes from 10,000 on. */
typedef struct {
    char text[32];
} number;

static number digits(int64_t n)
{
    number out;
    char plain[24];
    int length = snprintf(plain, sizeof plain, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && length > 4 && (length - i) % 3 == 0) out.text[at++] = ',';
        out.text[at++] = plain[i];
    }
    out.text[at] = 0;
    return out;
}

/* 8.65 M: three digits and a unit. */
static number rounded(int64_t n)
{
    static const char *const unit[] = { "", " K", " M", " B", " T" };
    number out;
    double value = (double)n;
    int u = 0;
    while (value >= 999.5 && u < 4) {
        value /= 1000;
        u++;
    }
    int decimals = u == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(out.text, sizeof out.text, "%.*f%s", decimals, value, unit[u]);
    return out;
}

/* ---- shapes ---- */

static void arrow(const drawing *g, int x1, int y1, int x2, int y2)
{
    fprintf(g->out, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"a\" marker-end=\"url(#p)\"/>\n", x1, y1, x2,
            y2);
}

static void rectangle(const drawing *g, int x, int y, int w, int h, const char *class)
{
    fprintf(g->out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"7\" class=\"%s\"/>\n", x, y, w, h, class);
}

/* Lines end with NULL; the first is the box's name.  The text is centred. */
static void box(const drawing *g, int x, int y, int w, int h, const char *class, ...)
{
    const char *line[8];
    int n = 0;
    va_list ap;
    va_start(ap, class);
    while (n < 8 && (line[n] = va_arg(ap, const char *))) n++;
    va_end(ap);
    rectangle(g, x, y, w, h, class);
    int first = y + (h - n * LINE_H) / 2 + 13;
    for (int i = 0; i < n; i++) put_text(g, x + w / 2, first + i * LINE_H, i ? "s" : "t", "middle", line[i]);
}

static int box_height(int n_line)
{
    return n_line * LINE_H + 12;
}

/* A box over the whole width: name and shape on the left, parameters on the right. */
static void end_box(drawing *g, const char *class, const char *name, const char *detail, int64_t n_param)
{
    int h = 42;
    rectangle(g, EDGE, g->y, WIDTH - 2 * EDGE, h, class);
    put_text(g, NORM_X, g->y + 26, "t", "start", name);
    put_text(g, BLOCK_X, g->y + 26, "s", "start", detail);
    if (n_param) put_text(g, WIDTH - EDGE - 24, g->y + 26, "n", "end", rounded(n_param).text);
    g->y += h;
}

/* The stream from y to g->y, ending in an arrow. */
static void stream(const drawing *g, int y, bool pointed)
{
    fprintf(g->out, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"r\"%s/>\n", STREAM, y, STREAM, g->y,
            pointed ? " marker-end=\"url(#q)\"" : "");
}

/* ---- blocks: each draws its boxes from g->y on, in a frame drawn before them ---- */

static void frame(drawing *g, int height, const char *class, const char *name, int64_t n_param)
{
    rectangle(g, BLOCK_X, g->y, BLOCK_W, height, class);
    put_text(g, BLOCK_X + PAD, g->y + 22, "t", "start", name);
    put_text(g, BLOCK_X + BLOCK_W - PAD, g->y + 22, "n", "end", rounded(n_param).text);
}

#define SHAPE(out, rows, cols) snprintf(out, sizeof(out), "%s \303\227 %s", digits(rows).text, digits(cols).text)

static void attention_core(drawing *g, const char *head)
{
    const ml_config *c = g->c;
    int x = BLOCK_X + PAD, w = BLOCK_W - 2 * PAD;
    char what[192], rope[192], out[160], shape[96];
    snprintf(what, sizeof what, "softmax(q k\341\265\200 / \342\210\232%s) v", digits(ml_config_d_qk(c)).text);
    snprintf(rope, sizeof rope, "causal, %s; RoPE base %s%s", head, digits((int64_t)c->rope_theta).text,
             c->yarn_factor != 1 ? " with YaRN" : "");
    box(g, x, g->y, w, box_height(2), "i", what, rope, NULL);
    g->y += box_height(2);
    arrow(g, x + w / 2, g->y, x + w / 2, g->y + GAP);
    g->y += GAP;
    SHAPE(shape, c->hidden_size, c->num_attention_heads * ml_config_d_v(c));
    snprintf(out, sizeof out, "o_proj  %s", shape);
    box(g, x, g->y, w, box_height(1), "i", out, NULL);
    g->y += box_height(1);
}

enum { CORE_H = 2 * 17 + 12 + 22 + 17 + 12 };

static void draw_gqa(drawing *g)
{
    const ml_config *c = g->c;
    int64_t n_head = c->num_attention_heads, n_kv = c->num_key_value_heads, d = c->hidden_size, width = c->head_dim;
    int w = (BLOCK_W - 2 * PAD - 2 * GAP) / 3, h = box_height(c->qk_norm ? 4 : 3);
    const char *const name[] = { "q_proj", "k_proj", "v_proj" };
    for (int i = 0; i < 3; i++) {
        int x = BLOCK_X + PAD + i * (w + GAP);
        int64_t n = i ? n_kv : n_head;
        char shape[96], heads[160];
        SHAPE(shape, n * width, d);
        if (c->attention_bias) strcat(shape, ", bias");
        snprintf(heads, sizeof heads, "%s head%s of %s", digits(n).text, n == 1 ? "" : "s", digits(width).text);
        box(g, x, g->y, w, h, "i", name[i], shape, heads, c->qk_norm && i < 2 ? "RMSNorm on heads" : NULL, NULL);
        arrow(g, x + w / 2, g->y + h, x + w / 2, g->y + h + GAP);
    }
    g->y += h + GAP;
    char head[160];
    if (n_kv == n_head)
        snprintf(head, sizeof head, "%s heads", digits(n_head).text);
    else
        snprintf(head, sizeof head, "%s query heads share a key head", digits(n_head / n_kv).text);
    attention_core(g, head);
}

static int gqa_height(const ml_config *c)
{
    return HEAD_H + box_height(c->qk_norm ? 4 : 3) + GAP + CORE_H + PAD;
}

static void draw_mla_query(const drawing *g, int x, int w, int h, int y_core)
{
    const ml_config *c = g->c;
    int64_t rows = c->num_attention_heads * ml_config_d_qk(c);
    char shape[96], heads[160], lora[96];
    snprintf(heads, sizeof heads, "%s heads of %s + %s rotary", digits(c->num_attention_heads).text,
             digits(c->qk_nope_head_dim).text, digits(c->qk_rope_head_dim).text);
    SHAPE(shape, rows, c->q_lora_rank ? c->q_lora_rank : c->hidden_size);
    if (!c->q_lora_rank) {
        box(g, x, g->y, w, h, "i", "q_proj", shape, heads, NULL);
        arrow(g, x + w / 2, g->y + h, x + w / 2, y_core);
        return;
    }
    SHAPE(lora, c->q_lora_rank, c->hidden_size);
    box(g, x, g->y, w, h, "i", "q_a_proj", lora, "compressed queries", NULL);
    arrow(g, x + w / 2, g->y + h, x + w / 2, g->y + h + GAP);
    box(g, x, g->y + h + GAP, w, y_core - GAP - (g->y + h + GAP), "i", "RMSNorm, q_b_proj", shape, heads, NULL);
    arrow(g, x + w / 2, y_core - GAP, x + w / 2, y_core);
}

static void draw_mla(drawing *g)
{
    const ml_config *c = g->c;
    int64_t d_v = ml_config_d_v(c), n_head = c->num_attention_heads;
    int w = (BLOCK_W - 2 * PAD - GAP) * 2 / 5, x2 = BLOCK_X + PAD + w + GAP, w2 = BLOCK_W - 2 * PAD - GAP - w;
    int h = box_height(3), h2 = box_height(4), y2 = g->y + h + GAP, y_core = y2 + h2 + GAP;
    int w_rope = w2 / 3 - 8, w_b = w2 - w_rope - 12;
    char shape[96], split[160], heads[160], each[160], width[96];
    draw_mla_query(g, BLOCK_X + PAD, w, h, y_core);
    SHAPE(shape, c->kv_lora_rank + c->qk_rope_head_dim, c->hidden_size);
    snprintf(split, sizeof split, "the cache: %s compressed + %s rotary", digits(c->kv_lora_rank).text,
             digits(c->qk_rope_head_dim).text);
    box(g, x2, g->y, w2, h, "i", "kv_a_proj_with_mqa", shape, split, NULL);
    arrow(g, x2 + w_b / 2, g->y + h, x2 + w_b / 2, y2);
    arrow(g, x2 + w2 - w_rope / 2, g->y + h, x2 + w2 - w_rope / 2, y2);
    SHAPE(shape, n_head * (c->qk_nope_head_dim + d_v), c->kv_lora_rank);
    snprintf(heads, sizeof heads, "%s heads of", digits(n_head).text);
    snprintf(each, sizeof each, "%s key + %s value", digits(c->qk_nope_head_dim).text, digits(d_v).text);
    box(g, x2, y2, w_b, h2, "i", "RMSNorm, kv_b_proj", shape, heads, each, NULL);
    snprintf(width, sizeof width, "%s columns", digits(c->qk_rope_head_dim).text);
    box(g, x2 + w2 - w_rope, y2, w_rope, h2, "i", "RoPE", width, "one for", "all heads", NULL);
    arrow(g, x2 + w_b / 2, y2 + h2, x2 + w_b / 2, y_core);
    arrow(g, x2 + w2 - w_rope / 2, y2 + h2, x2 + w2 - w_rope / 2, y_core);
    g->y = y_core;
    snprintf(heads, sizeof heads, "%s heads", digits(n_head).text);
    attention_core(g, heads);
}

static int mla_height(void)
{
    return HEAD_H + box_height(3) + GAP + box_height(4) + GAP + CORE_H + PAD;
}

static void draw_attention(drawing *g, int64_t n_param)
{
    bool mla = g->c->attention == ML_ATTENTION_MLA;
    int top = g->y, height = mla ? mla_height() : gqa_height(g->c);
    const char *name = mla                                                      ? "Multi-head latent attention"
                       : g->c->num_key_value_heads == g->c->num_attention_heads ? "Multi-head attention"
                                                                                : "Grouped-query attention";
    frame(g, height, "f at", name, n_param);
    g->y = top + HEAD_H;
    if (mla)
        draw_mla(g);
    else
        draw_gqa(g);
    g->y = top + height;
}

static void draw_dense(drawing *g, int64_t n_param)
{
    int top = g->y, h = box_height(2), w = (BLOCK_W - 2 * PAD - GAP) / 2, x = BLOCK_X + PAD;
    int height = HEAD_H + h + GAP + box_height(1) + PAD;
    char shape[96], down[192];
    frame(g, height, "f de", "Dense MLP (SwiGLU)", n_param);
    g->y += HEAD_H;
    SHAPE(shape, g->c->intermediate_size, g->c->hidden_size);
    box(g, x, g->y, w, h, "i", "gate_proj", shape, NULL);
    box(g, x + w + GAP, g->y, w, h, "i", "up_proj", shape, NULL);
    arrow(g, x + w / 2, g->y + h, x + w / 2, g->y + h + GAP);
    arrow(g, x + w + GAP + w / 2, g->y + h, x + w + GAP + w / 2, g->y + h + GAP);
    SHAPE(shape, g->c->hidden_size, g->c->intermediate_size);
    snprintf(down, sizeof down, "down_proj of silu(gate) \302\267 up  %s", shape);
    box(g, x, g->y + h + GAP, BLOCK_W - 2 * PAD, box_height(1), "i", down, NULL);
    g->y = top + height;
}

enum { ROUTER_LINES = 3 };

static void draw_router(drawing *g, int x, int w)
{
    const ml_config *c = g->c;
    char name[160], choice[160], weights[160], shape[96];
    SHAPE(shape, c->n_routed_experts, c->hidden_size);
    snprintf(name, sizeof name, "router  %s", shape);
    snprintf(choice, sizeof choice, "%s%s, top %s of %s", c->scoring == ML_SCORE_SIGMOID ? "sigmoid" : "softmax",
             c->correction_bias ? " + balancing bias" : "", digits(c->num_experts_per_tok).text,
             digits(c->n_routed_experts).text);
    const char *sum = c->norm_topk_prob ? "weights sum to 1" : "weights as they are";
    if (c->routed_scaling_factor != 1)
        snprintf(weights, sizeof weights, "%s, \303\227 %.4g", sum, c->routed_scaling_factor);
    else
        snprintf(weights, sizeof weights, "%s", sum);
    box(g, x, g->y, w, box_height(ROUTER_LINES), "i ro", name, choice, weights, NULL);
    g->y += box_height(ROUTER_LINES);
}

static void draw_experts(drawing *g, int x, int w, int h)
{
    const ml_config *c = g->c;
    enum { STEP = 6 };
    int behind = c->n_routed_experts < 3 ? (int)c->n_routed_experts - 1 : 2;
    for (int i = behind; i > 0; i--) rectangle(g, x + STEP * i, g->y + STEP * i, w - STEP * behind, h, "i ex");
    char name[160], in[192], out[192], shape[96], back[96], cost[192];
    int64_t each = ml_model_count_expert(c);
    snprintf(name, sizeof name, "%s experts, %s for each token", digits(c->n_routed_experts).text,
             digits(c->num_experts_per_tok).text);
    SHAPE(shape, c->moe_intermediate_size, c->hidden_size);
    SHAPE(back, c->hidden_size, c->moe_intermediate_size);
    snprintf(in, sizeof in, "%s %s", c->expert_relu ? "up" : "gate, up", shape);
    snprintf(out, sizeof out, "down %s", back);
    snprintf(cost, sizeof cost, "%s each, %s in all", rounded(each).text, rounded(each * c->n_routed_experts).text);
    box(g, x, g->y, w - STEP * behind, h, "i ex", name, in, out,
        c->expert_relu ? "down(relu(up x))" : "down(silu(gate x) \302\267 up x)", cost, NULL);
}

static void draw_shared(const drawing *g, int x, int w, int h)
{
    const ml_config *c = g->c;
    char name[160], in[160], out[160], shape[96], back[96], cost[160];
    int64_t f = c->n_shared_experts * c->moe_intermediate_size;
    snprintf(name, sizeof name, "%s shared", digits(c->n_shared_experts).text);
    SHAPE(shape, f, c->hidden_size);
    SHAPE(back, c->hidden_size, f);
    snprintf(in, sizeof in, "gate, up %s", shape);
    snprintf(out, sizeof out, "down %s", back);
    snprintf(cost, sizeof cost, "%s", rounded(c->n_shared_experts * ml_model_count_expert(c)).text);
    box(g, x, g->y, w, h, "i sh", name, in, out, "for every token", cost, NULL);
}

static void draw_moe(drawing *g, const ml_param_groups *n)
{
    const ml_config *c = g->c;
    bool shared = c->n_shared_experts > 0;
    int top = g->y, inner = BLOCK_W - 2 * PAD, x = BLOCK_X + PAD, h = box_height(5), stack = 12;
    int w = shared ? (inner - GAP) * 3 / 5 : inner, x2 = x + w + GAP, w2 = inner - w - GAP;
    int height = HEAD_H + box_height(ROUTER_LINES) + GAP + h + stack + GAP + box_height(1) + PAD;
    frame(g, height, "f ex", "Mixture of experts", n->router + n->experts + n->shared);
    g->y += HEAD_H;
    int y_router = g->y;
    draw_router(g, x, w);
    arrow(g, x + w / 2, g->y, x + w / 2, g->y + GAP);
    if (shared) {
        put_text(g, x2 + w2 / 2, y_router + box_height(ROUTER_LINES) / 2 + 4, "s", "middle", "not routed");
        arrow(g, x2 + w2 / 2, y_router + box_height(ROUTER_LINES) / 2 + 12, x2 + w2 / 2, g->y + GAP);
    }
    g->y += GAP;
    draw_experts(g, x, w, h);
    if (shared) draw_shared(g, x2, w2, h);
    g->y += h;
    arrow(g, x + w / 2, g->y + stack, x + w / 2, g->y + stack + GAP);
    if (shared) arrow(g, x2 + w2 / 2, g->y, x2 + w2 / 2, g->y + stack + GAP);
    g->y += stack + GAP;
    char sum[192] = "sum of expert outputs \303\227 router weights", scale[96];
    if (shared) {
        bool mean = fabs(c->shared_scale * (double)c->n_shared_experts - 1) < 1e-9;
        snprintf(scale, sizeof scale, mean && c->n_shared_experts > 1 ? " + mean of shared" : " + shared");
        strcat(sum, scale);
    }
    box(g, x, g->y, inner, box_height(1), "i", sum, NULL);
    g->y = top + height;
}

/* ---- layers ---- */

/* From the stream through a norm into the block that begins at g->y. */
static void branch(const drawing *g)
{
    int y = g->y + 17;
    char width[96];
    fprintf(g->out, "<circle cx=\"%d\" cy=\"%d\" r=\"3\" class=\"d\"/>\n", STREAM, y);
    arrow(g, STREAM, y, NORM_X, y);
    snprintf(width, sizeof width, "RMSNorm %s", digits(g->c->hidden_size).text);
    box(g, NORM_X, g->y, NORM_W, 34, "i no", width, NULL);
    arrow(g, NORM_X + NORM_W, y, BLOCK_X, y);
}

/* From the block that ends at g->y back to the stream. */
static void join(drawing *g)
{
    int y = g->y - 17;
    fprintf(g->out,
            "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"a\" marker-end=\"url(#p)\"/>\n"
            "<circle cx=\"%d\" cy=\"%d\" r=\"11\" class=\"j\"/>\n"
            "<path d=\"M%d %dh12m-6 -6v12\" class=\"a\"/>\n",
            BLOCK_X, y, STREAM + 12, y, STREAM, y, STREAM - 6, y);
}

/* The attention of a group drawn elsewhere. */
static void draw_attention_again(drawing *g, int64_t n_param)
{
    rectangle(g, BLOCK_X, g->y, BLOCK_W, 68, "f at");
    put_text(g, BLOCK_X + PAD, g->y + 39, "t", "start", "Attention");
    put_text(g, BLOCK_X + 112, g->y + 39, "s", "start", "as drawn below");
    put_text(g, BLOCK_X + BLOCK_W - PAD, g->y + 39, "n", "end", rounded(n_param).text);
    g->y += 68;
}

/* Layers [first, first + n), all alike; attention is drawn in full when asked. */
static void draw_layers(drawing *g, int64_t first, int64_t n, bool full)
{
    ml_param_groups count = ml_model_count_layer(g->c, first);
    bool moe = ml_config_layer_is_moe(g->c, first);
    int top = g->y;
    char heading[160], cost[160], times[96];
    /* The frame is behind everything, but its height is known last: draw the inside into memory first. */
    char *inside = NULL;
    size_t size;
    FILE *out = g->out, *memory = open_memstream(&inside, &size);
    if (!memory) {
        g->failed = true;
        return;
    }
    g->out = memory;
    g->y += 52;
    branch(g);
    if (full)
        draw_attention(g, count.attention);
    else
        draw_attention_again(g, count.attention);
    join(g);
    g->y += GAP;
    branch(g);
    if (moe)
        draw_moe(g, &count);
    else
        draw_dense(g, count.dense);
    join(g);
    g->y += 20;
    if (fclose(memory) != 0) g->failed = true;
    g->out = out;
    rectangle(g, EDGE, top, WIDTH - 2 * EDGE, g->y - top, "g");
    stream(g, top, false);
    if (!g->failed) fwrite(inside, 1, size, out);
    free(inside);
    if (n == 1)
        snprintf(heading, sizeof heading, "Layer %s", digits(first).text);
    else
        snprintf(heading, sizeof heading, "Layers %s to %s", digits(first).text, digits(first + n - 1).text);
    int64_t all = ml_param_groups_total(&count), each = ml_model_count_expert(g->c);
    int64_t active = moe ? all - (g->c->n_routed_experts - g->c->num_experts_per_tok) * each : all;
    const char *each_layer = n > 1 ? " a layer" : "";
    if (moe)
        snprintf(cost, sizeof cost, "%s parameters%s, %s active", rounded(all).text, each_layer, rounded(active).text);
    else
        snprintf(cost, sizeof cost, "%s parameters%s", rounded(all).text, each_layer);
    snprintf(times, sizeof times, "\303\227 %s", digits(n).text);
    put_text(g, NORM_X, top + 32, "t", "start", heading);
    put_text(g, BLOCK_X, top + 32, "s", "start", cost);
    if (n > 1) put_text(g, WIDTH - EDGE - 24, top + 35, "x", "end", times);
}

/* ---- the whole ---- */

static void draw_body(drawing *g)
{
    const ml_config *c = g->c;
    ml_param_groups n = ml_model_count_groups(c);
    int64_t n_dense = c->n_routed_experts > 0 ? c->first_k_dense_replace : c->num_hidden_layers;
    char shape[96];
    put_text(g, STREAM, g->y - 14, "s", "middle", "token ids");
    stream(g, g->y - 8, false);
    SHAPE(shape, c->vocab_size, c->hidden_size);
    end_box(g, "i en", "Embedding", shape, n.embedding);
    int from = g->y;
    g->y += GAP;
    stream(g, from, true);
    if (n_dense > 0) {
        draw_layers(g, 0, n_dense, n_dense == c->num_hidden_layers);
        from = g->y;
        g->y += GAP;
        stream(g, from, true);
    }
    if (n_dense < c->num_hidden_layers) {
        draw_layers(g, n_dense, c->num_hidden_layers - n_dense, true);
        from = g->y;
        g->y += GAP;
        stream(g, from, true);
    }
    end_box(g, "i no", "RMSNorm", digits(c->hidden_size).text, c->hidden_size);
    from = g->y;
    g->y += GAP;
    stream(g, from, true);
    if (c->tie_word_embeddings) strcat(shape, ", the embedding's matrix");
    if (c->head_bias) strcat(shape, ", bias");
    end_box(g, "i en", "Head", shape, n.head);
    from = g->y;
    g->y += GAP;
    stream(g, from, true);
    put_text(g, STREAM, g->y + 16, "s", "middle", "logits");
    put_text(g, WIDTH - EDGE, g->y + 16, "s", "end",
             "Shapes are rows \303\227 columns as stored; bold numbers on the right count parameters.");
    g->y += 40;
}

static void draw_title(drawing *g, const char *title)
{
    ml_param_counts n = ml_model_count(g->c);
    char line[256];
    put_text(g, EDGE, 44, "h", "start", title);
    snprintf(line, sizeof line, "%s parameters, %s active for each token; %s layers %s wide; %s positions",
             digits(n.total).text, digits(n.active).text, digits(g->c->num_hidden_layers).text,
             digits(g->c->hidden_size).text, digits(g->c->max_position_embeddings).text);
    put_text(g, EDGE, 70, "s", "start", line);
    put_text(g, WIDTH - EDGE, 44, "s", "end", ml_config_class_name(g->c));
    g->y = 122;
}

static const char style[] =
    "<style>\n"
    "text{font-family:system-ui,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;fill:#1f2933}\n"
    ".h{font-size:22px;font-weight:600}.t{font-size:13px;font-weight:600}.s{font-size:12.5px;fill:#52606d}\n"
    ".n{font-size:13px;font-weight:600}.x{font-size:20px;font-weight:600}\n"
    ".b{fill:#fff;stroke:#d9dee4}.g{fill:#f6f8fa;stroke:#b8c2cc}.f,.i{stroke-width:1.2}.i{fill:#fff;stroke:#9aa5b1}\n"
    ".at{fill:#e3effc;stroke:#4a86c8}.de{fill:#efe9fb;stroke:#8b6fc9}.ex{fill:#e4f4e8;stroke:#4c9a62}\n"
    ".sh{fill:#ddf3f2;stroke:#3b9a95}.ro{fill:#fdf1d8;stroke:#c9952d}.en{fill:#e8ecf1;stroke:#7b8794}\n"
    ".no{fill:#fff;stroke:#9aa5b1}\n"
    ".a{stroke:#52606d;stroke-width:1.3;fill:none}.r{stroke:#7b8794;stroke-width:3}.k{fill:#52606d}.l,.d{fill:#7b8794}"
    "\n"
    ".j{fill:#fff;stroke:#52606d;stroke-width:1.3}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#e6eaee}.s{fill:#aab4be}.b{fill:#14181d;stroke:#333c45}.g{fill:#1b2026;stroke:#46505a}\n"
    ".i,.no,.j{fill:#20262d;stroke:#66717c}.at{fill:#172a40;stroke:#4a86c8}.de{fill:#292140;stroke:#8b6fc9}\n"
    ".ex{fill:#173021;stroke:#4c9a62}.sh{fill:#12302f;stroke:#3b9a95}.ro{fill:#382b10;stroke:#c9952d}\n"
    ".en{fill:#262d35;stroke:#7b8794}.a{stroke:#aab4be}.j{stroke:#aab4be}.k{fill:#aab4be}\n"
    "}\n</style>\n"
    "<defs>\n"
    "<marker id=\"p\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">"
    "<path d=\"M0 0.5L8 4L0 7.5z\" class=\"k\"/></marker>\n"
    "<marker id=\"q\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"3.6\" markerHeight=\"3.6\" "
    "orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" class=\"l\"/></marker>\n"
    "</defs>\n";

static void draw(const ml_config *config, const char *title, FILE *out, const char *body, size_t n_body, int height)
{
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n"
            "<title>",
            WIDTH, height, WIDTH, height);
    put_escaped(out, title);
    fprintf(out, ": %s</title>\n%s", ml_config_class_name(config), style);
    fprintf(out, "<rect x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"10\" class=\"b\"/>\n", WIDTH - 1,
            height - 1);
    fwrite(body, 1, n_body, out);
    fputs("</svg>\n", out);
}

ml_status ml_diagram_make(const ml_config *config, const char *title, char **svg, size_t *n_bytes, ml_error *err)
{
    char *body = NULL, *all = NULL;
    size_t n_body = 0, n_all = 0;
    *svg = NULL;
    *n_bytes = 0;
    drawing g = { .out = open_memstream(&body, &n_body), .c = config };
    if (g.out) {
        draw_title(&g, title);
        draw_body(&g);
    }
    bool done = g.out && fclose(g.out) == 0 && !g.failed;
    FILE *out = done ? open_memstream(&all, &n_all) : NULL;
    if (out) draw(config, title, out, body, n_body, g.y);
    done = out && fclose(out) == 0;
    if (done) *svg = ml_strdup(all);
    if (*svg) *n_bytes = n_all;
    free(body);
    free(all);
    return *svg ? ML_OK : ml_fail_memory(err, n_all, "a drawing");
}

/* The drawing of an architecture is well-formed XML and says what the model has; parameter groups sum to the whole. */
#include "model/diagram.h"

#include "base/alloc.h"
#include "model/model.h"
#include "support/support.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static ml_error err;

/* Elements closed in order, attributes quoted, '&' only in known entities: what a reader needs to open the file. */
static const char *check_tag(const char *p, const char *name[], size_t length[], int *depth)
{
    const char *end = strchr(p, '>');
    assert_non_null(end);
    size_t n = strcspn(p + 1, " />");
    if (p[1] == '/') {
        n = strcspn(p + 2, " >");
        assert_true(*depth > 0);
        (*depth)--;
        assert_int_equal(n, length[*depth]);
        assert_memory_equal(p + 2, name[*depth], n);
        return end + 1;
    }
    int quotes = 0;
    for (const char *q = p; q < end; q++) {
        quotes += *q == '"';
        assert_true(q == p || *q != '<');
    }
    assert_int_equal(quotes % 2, 0);
    if (end[-1] == '/') return end + 1;
    assert_true(*depth < 16);
    name[*depth] = p + 1;
    length[(*depth)++] = n;
    return end + 1;
}

static void check_xml(const char *p)
{
    const char *name[16];
    size_t length[16];
    int depth = 0;
    while (*p) {
        if (*p == '<') {
            p = check_tag(p, name, length, &depth);
            continue;
        }
        if (*p == '&') {
            assert_true(!strncmp(p, "&amp;", 5) || !strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) ||
                        !strncmp(p, "&quot;", 6));
        }
        assert_true(depth > 0 || isspace((unsigned char)*p));
        p++;
    }
    assert_int_equal(depth, 0);
}

static char *draw(const ml_config *c, const char *title)
{
    char *svg;
    size_t n_bytes;
    assert_ok(ml_diagram_make(c, title, &svg, &n_bytes, &err));
    assert_int_equal(strlen(svg), n_bytes);
    return svg;
}

static void assert_says(const char *svg, const char *text)
{
    if (!strstr(svg, text)) fail_msg("the drawing does not say \"%s\"", text);
}

static void test_every_preset_is_well_formed(void **state)
{
    (void)state;
    for (const char *const *name = ml_config_preset_names(); *name; name++) {
        ml_config c;
        assert_ok(ml_config_preset(*name, &c, &err));
        char *svg = draw(&c, *name);
        check_xml(svg);
        ml_free(svg);
    }
}

static void test_shapes_and_counts_are_there(void **state)
{
    (void)state;
    ml_config c;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    char *svg = draw(&c, "a <\"model\"> & more\n");
    check_xml(svg);
    assert_says(svg, "a &lt;&quot;model&quot;&gt; &amp; more");
    assert_says(svg, "15,960,110,208 parameters, 2,914,776,192 active");
    assert_says(svg, "163,840 \303\227 2048"); /* embedding and head */
    assert_says(svg, "3072 \303\227 2048");    /* q_proj: 16 heads of 192 */
    assert_says(svg, "576 \303\227 2048");     /* kv_a_proj: 512 + 64 */
    assert_says(svg, "4096 \303\227 512");     /* kv_b_proj: 16 heads of 128 + 128 */
    assert_says(svg, "gate, up 1408 \303\227 2048");
    assert_says(svg, "gate, up 2816 \303\227 2048"); /* two shared experts as one */
    assert_says(svg, "11,264 \303\227 2048");        /* the dense layer */
    assert_says(svg, "Layers 1 to 26");
    assert_says(svg, "\303\227 26<");
    ml_free(svg);
}

static void test_without_memory(void **state)
{
    (void)state;
    ml_config c;
    char *svg;
    size_t n_bytes;
    assert_ok(ml_config_preset("nano-moe", &c, &err));
    ml_alloc_fail_after(0);
    ml_status status = ml_diagram_make(&c, "x", &svg, &n_bytes, &err);
    ml_alloc_fail_after(-1);
    assert_int_equal(status, ML_ENOMEM);
    assert_null(svg);
}

/* Groups by kind of weight against the weights that a model really has. */
static void test_groups_match_the_weights(void **state)
{
    (void)state;
    const char *const names[] = { "nano-moe", "moonlight-tiny", "moonlight-moe-130m" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ml_config c;
        ml_model *m;
        assert_ok(ml_config_preset(names[i], &c, &err));
        assert_ok(ml_model_make(&c, ML_BF16, false, &m, &err));
        int64_t attention = 0, experts = 0, shared = 0, router = 0, n_bytes = 0;
        for (size_t k = 0; k < m->n_weight; k++) {
            const ml_weight *w = &m->weight[k];
            int64_t n = ml_weight_count(w);
            n_bytes += n * (int64_t)ml_dtype_size(w->dtype);
            if (strstr(w->name, ".self_attn.")) attention += n;
            if (strstr(w->name, ".mlp.experts.")) experts += n;
            if (strstr(w->name, ".shared_experts.")) shared += n;
            if (strstr(w->name, ".mlp.gate.")) router += n;
        }
        ml_param_groups g = ml_model_count_groups(&c);
        assert_int_equal(g.attention, attention);
        assert_int_equal(g.experts, experts);
        assert_int_equal(g.shared, shared);
        assert_int_equal(g.router, router);
        assert_int_equal(ml_param_groups_total(&g), ml_model_count(&c).total);
        assert_int_equal(ml_model_weight_bytes(&c, ML_BF16), n_bytes);
        ml_model_free(m);
    }
}

/* Numbers that each are in range but together overflow 64 bits are refused, not computed with. */
static void test_impossible_sizes_are_refused(void **state)
{
    (void)state;
    ml_config c;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    c.hidden_size = 1 << 20;
    c.n_routed_experts = 1 << 16;
    c.moe_intermediate_size = 1 << 24;
    c.num_hidden_layers = 4096;
    assert_fails(ml_config_check(&c, "here", &err), ML_EINVAL, "which is no model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_preset_is_well_formed),
        cmocka_unit_test(test_shapes_and_counts_are_there),
        cmocka_unit_test(test_without_memory),
        cmocka_unit_test(test_groups_match_the_weights),
        cmocka_unit_test(test_impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Charts: what a reader of the SVG sees is where the numbers say it should be. */
#include "support/support.h"
#include "train/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void draw(const ml_plot *plot, char *svg, size_t size)
{
    FILE *out = fmemopen(svg, size, "w");
    assert_non_null(out);
    ml_plot_write_svg(plot, out);
    assert_int_equal(fflush(out), 0);
    assert_int_equal(fclose(out), 0);
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) n++;
    return n;
}

static void test_tick_distances_are_round(void **state)
{
    (void)state;
    static const struct {
        double range;
        int n;
        double want;
    } cases[] = { { 400, 8, 50 }, { 8, 8, 1 }, { 1, 8, 0.2 }, { 0.9, 5, 0.2 }, { 7.3e-4, 8, 1e-4 }, { 11, 8, 2 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double step = ml_plot_tick_step(cases[i].range, cases[i].n);
        assert_true(fabs(step / cases[i].want - 1) < 1e-12); /* a few roundings of powers of ten */
    }
}

/* Number `i` of all numbers in the attribute d of the first path with `style`. */
static double path_number(const char *svg, const char *style, int i)
{
    const char *p = strstr(svg, style);
    assert_non_null(p);
    p = strstr(p, " d=\"");
    assert_non_null(p);
    for (p += 4;; i--) {
        p += strspn(p, "MLVHh ");
        char *end;
        double value = strtod(p, &end);
        assert_ptr_not_equal(end, p);
        if (i == 0) return value;
        p = end;
    }
}

static void test_points_lie_where_their_values_say(void **state)
{
    (void)state;
    double x[] = { 0, 50, 100 }, y[] = { 4, 3, 2 };
    ml_plot_line line = { .name = "a < b & c", .x = x, .y = y, .n = 3, .colour = 1 };
    ml_plot plot = { .title = "T", .x_label = "X", .y_label = "Y", .line = &line, .n_line = 1 };
    char svg[8192];
    draw(&plot, svg, sizeof svg);
    double at[6];
    for (int i = 0; i < 6; i++) at[i] = path_number(svg, "class=\"line\"", i);
    /* evenly spaced values are evenly spaced pixels (printed to a tenth), and larger is higher up */
    assert_true(fabs(at[2] - at[0] - (at[4] - at[2])) < 0.21);
    assert_true(fabs(at[3] - at[1] - (at[5] - at[3])) < 0.21);
    assert_true(at[2] > at[0] && at[3] > at[1]);
    /* the ends of the data are the ends of the axes: M left top V bottom H right */
    assert_true(fabs(at[0] - path_number(svg, "class=\"axis\"", 0)) < 0.11);
    assert_true(fabs(at[1] - path_number(svg, "class=\"axis\"", 1)) < 0.11);
    assert_true(fabs(at[5] - path_number(svg, "class=\"axis\"", 2)) < 0.11);
    assert_true(fabs(at[4] - path_number(svg, "class=\"axis\"", 3)) < 0.11);
    assert_non_null(strstr(svg, "a &lt; b &amp; c</text>"));
    assert_non_null(strstr(svg, ">2.0</text>"));
}

static void test_faint_lines_and_gaps(void **state)
{
    (void)state;
    double x[] = { 1, 2, 3, 4 }, y[] = { 1, NAN, 3, INFINITY };
    ml_plot_line lines[] = { { .x = x, .y = y, .n = 4, .faint = true },
                             { .name = "m", .x = x, .y = x, .n = 4, .colour = 10 } };
    ml_plot plot = { .title = "", .x_label = "", .y_label = "", .line = lines, .n_line = 2, .y_min = 0, .y_max = 8 };
    char svg[8192];
    draw(&plot, svg, sizeof svg);
    assert_int_equal(count(svg, "class=\"faint\""), 1); /* not in the legend */
    assert_int_equal(count(svg, "class=\"line\""), 2);
    assert_int_equal(count(svg, "stroke-dasharray"), 2); /* the eleventh colour */
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    const char *d = strstr(strstr(svg, "class=\"faint\""), " d=\"");
    assert_null(memchr(d + 4, 'L', strcspn(d + 4, "\""))); /* single points: the gaps leave no segment */
}

static void test_a_chart_without_points_is_still_one(void **state)
{
    (void)state;
    ml_plot plot = { .title = "none yet", .x_label = "x", .y_label = "y" };
    char svg[8192];
    draw(&plot, svg, sizeof svg);
    assert_non_null(strstr(svg, "</svg>"));
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tick_distances_are_round),
        cmocka_unit_test(test_points_lie_where_their_values_say),
        cmocka_unit_test(test_faint_lines_and_gaps),
        cmocka_unit_test(test_a_chart_without_points_is_still_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

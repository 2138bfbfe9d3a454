/* Charts: what a reader of the SVG sees is where the numbers say it should be. */
#include "support/support.h"
#include "chart/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void draw(const ml_chart_lines *plot, char *svg, size_t size)
{
    FILE *out = fmemopen(svg, size, "w");
    assert_non_null(out);
    ml_chart_write_lines(plot, out);
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
        double step = ml_chart_tick_step(cases[i].range, cases[i].n);
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
    ml_chart_line line = { .name = "a < b & c", .x = x, .y = y, .n = 3, .colour = 1 };
    ml_chart_lines plot = { .frame = { .title = "T", .x_label = "X", .y_label = "Y" }, .line = &line, .n_line = 1 };
    char svg[16384];
    draw(&plot, svg, sizeof svg);
    double at[6];
    for (int i = 0; i < 6; i++) at[i] = path_number(svg, "class=\"line s", i);
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
    ml_chart_line lines[] = { { .x = x, .y = y, .n = 4, .faint = true },
                              { .name = "m", .x = x, .y = x, .n = 4, .colour = 10 } };
    ml_chart_lines plot = {
        .frame = { .title = "", .x_label = "", .y_label = "" }, .line = lines, .n_line = 2, .y_min = 0, .y_max = 8
    };
    char svg[16384];
    draw(&plot, svg, sizeof svg);
    assert_int_equal(count(svg, "class=\"faint s"), 1); /* not in the legend */
    assert_int_equal(count(svg, "class=\"line s"), 2);
    assert_int_equal(count(svg, "stroke-dasharray"), 2); /* the eleventh colour */
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    const char *d = strstr(strstr(svg, "class=\"faint s"), " d=\"");
    assert_null(memchr(d + 4, 'L', strcspn(d + 4, "\""))); /* single points: the gaps leave no segment */
}

static void test_a_chart_without_points_is_still_one(void **state)
{
    (void)state;
    ml_chart_lines plot = { .frame = { .title = "none yet", .x_label = "x", .y_label = "y" } };
    char svg[16384];
    draw(&plot, svg, sizeof svg);
    assert_non_null(strstr(svg, "</svg>"));
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
}

static void test_bars_are_as_high_as_their_values(void **state)
{
    (void)state;
    const char *group[] = { "a", "b" }, *series[] = { "on", "off" };
    double value[] = { 10, 5, 20, NAN }, spread[] = { 1, 0, 0, 0 };
    ml_chart_bars bars = { .frame = { .title = "T" },
                           .group = group,
                           .n_group = 2,
                           .series = series,
                           .n_series = 2,
                           .value = value,
                           .spread = spread };
    char svg[16384];
    FILE *out = fmemopen(svg, sizeof svg, "w");
    assert_non_null(out);
    ml_chart_write_bars(&bars, out);
    assert_int_equal(fclose(out), 0);
    double height[3];
    const char *p = svg;
    for (int i = 0; i < 3; i++) {
        p = strstr(p, "width=\"");
        for (p = strstr(p, "<title>"); strncmp(p, "height=\"", 8) != 0; p--) {
        }
        height[i] = strtod(p + 8, NULL);
        p = strstr(p, "</rect>");
    }
    assert_true(fabs(height[0] - 2 * height[1]) < 0.21);
    assert_true(fabs(height[2] - 2 * height[0]) < 0.21);
    assert_int_equal(count(svg, "</rect>"), 3); /* what is not a number has no bar */
    assert_int_equal(count(svg, "class=\"whisker\""), 1);
    assert_non_null(strstr(svg, "on: 10</title>"));
}

static void test_cells_deepen_with_their_values(void **state)
{
    (void)state;
    double value[] = { 0, 1, 2, NAN, 4, 3 };
    ml_chart_heat heat = {
        .frame = { .title = "T" }, .value = value, .n_row = 2, .n_column = 3, .row_first = 1, .column_step = 1
    };
    char svg[16384];
    FILE *out = fmemopen(svg, sizeof svg, "w");
    assert_non_null(out);
    ml_chart_write_heat(&heat, out);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(count(svg, "<title>"), 5);
    const char *order[] = { "1, 0: 0<", "1, 1: 1<", "1, 2: 2<", "2, 2: 3<", "2, 1: 4<" };
    double last = 0;
    for (int i = 0; i < 5; i++) {
        const char *p = strstr(svg, order[i]);
        assert_non_null(p);
        while (strncmp(p, "fill-opacity=\"", 14) != 0) p--;
        double opacity = strtod(p + 14, NULL);
        assert_true(opacity > last && opacity <= 1);
        last = opacity;
    }
}

static void test_many_points_keep_their_peaks(void **state)
{
    (void)state;
    enum { N = 50000 };
    static double x[N], y[N];
    for (int i = 0; i < N; i++) {
        x[i] = i;
        y[i] = sin(i * 1e-3);
    }
    y[31337] = 9;
    ml_chart_line line = { .x = x, .y = y, .n = N };
    ml_chart_lines plot = { .frame = { .title = "T" }, .line = &line, .n_line = 1 };
    static char svg[1 << 16];
    draw(&plot, svg, sizeof svg); /* would not fit with every point */
    const char *d = strstr(strstr(svg, "class=\"line s"), " d=\"") + 4;
    double top = 1e9, from = path_number(svg, "class=\"axis\"", 1);
    while (*d != '"') {
        strtod(d + 1, (char **)&d);
        top = fmin(top, strtod(d, (char **)&d));
    }
    assert_true(fabs(top - from) < 0.11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tick_distances_are_round),
        cmocka_unit_test(test_points_lie_where_their_values_say),
        cmocka_unit_test(test_faint_lines_and_gaps),
        cmocka_unit_test(test_a_chart_without_points_is_still_one),
        cmocka_unit_test(test_bars_are_as_high_as_their_values),
        cmocka_unit_test(test_cells_deepen_with_their_values),
        cmocka_unit_test(test_many_points_keep_their_peaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

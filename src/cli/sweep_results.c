#include "cli/sweep_results.h"

#include "base/json.h"
#include "chart/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- logs ---- */

static ml_status read_line(ml_sweep_cell *c, size_t *step_capacity, size_t *loss_capacity, const char *text, size_t n,
                           const char *where, ml_error *err)
{
    json_t *line;
    int64_t step;
    double loss, seconds;
    ML_TRY(ml_json_parse(text, n, where, &line, err));
    ml_status status;
    ML_TRY_GOTO(ml_json_int(line, "step", where, &step, err));
    ML_TRY_GOTO(ml_json_real_or(line, "val_loss", where, NAN, &loss, err));
    ML_TRY_GOTO(ml_json_real_or(line, "seconds", where, 0, &seconds, err));
    c->seconds += seconds;
    if (!json_object_get(line, "val_loss")) goto done;
    ML_TRY_GOTO(ml_grow((void **)&c->eval_step, step_capacity, c->n_eval + 1, sizeof *c->eval_step, err));
    ML_TRY_GOTO(ml_grow((void **)&c->eval_loss, loss_capacity, c->n_eval + 1, sizeof *c->eval_loss, err));
    c->eval_step[c->n_eval] = step;
    c->eval_loss[c->n_eval++] = loss;
done:
    json_decref(line);
    return status;
}

void ml_sweep_forget_log(ml_sweep_cell *c)
{
    ml_free(c->eval_step);
    ml_free(c->eval_loss);
    c->eval_step = NULL;
    c->eval_loss = NULL;
    c->n_eval = 0;
    c->seconds = 0;
}

ml_status ml_sweep_read_log(ml_sweep_cell *c, ml_error *err)
{
    char path[ML_PATH_MAX], *text;
    size_t size, step_capacity = 0, loss_capacity = 0;
    ml_sweep_forget_log(c);
    ML_TRY(ml_path_join(path, c->folder, "log.jsonl", err));
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ML_OK;
    for (char *line = text, *end; status == ML_OK && (end = strchr(line, '\n')); line = end + 1) {
        status = read_line(c, &step_capacity, &loss_capacity, line, (size_t)(end - line), path, err);
    }
    ml_free(text);
    return status;
}

double ml_sweep_lowest_loss(const ml_sweep_cell *c, int64_t *step)
{
    double lowest = NAN;
    *step = -1;
    for (size_t i = 0; i < c->n_eval; i++) {
        if (!(isnan(lowest) || c->eval_loss[i] < lowest)) continue;
        lowest = c->eval_loss[i];
        *step = c->eval_step[i];
    }
    return lowest;
}

/* ---- sweep.jsonl ---- */

static json_t *describe_cell(const ml_sweep *s, const ml_sweep_cell *c)
{
    int64_t step;
    double loss = ml_sweep_lowest_loss(c, &step);
    json_t *j = json_pack(
        "{s:s, s:I, s:s, s:f, s:f, s:I, s:b, s:I, s:f}", "run", s->name[c->run_id], "seed", (json_int_t)c->seed,
        "optimizer", ml_options_text(c->o, "optim.name"), "lr", ml_options_real(c->o, "optim.lr"), "weight_decay",
        ml_options_real(c->o, "optim.weight_decay"), "steps", (json_int_t)ml_options_int(c->o, "train.steps"),
        "diverged", c->is_diverged, "lowest_at", (json_int_t)step, "seconds", c->seconds);
    if (j) json_object_set_new(j, "lowest_val_loss", ml_json_number(loss));
    return j;
}

static ml_status write_lines(const ml_sweep *s, ml_file_writer *w, ml_error *err)
{
    for (size_t i = 0; i < s->n_cell; i++) {
        if (!s->cell[i].is_done) continue;
        json_t *j = describe_cell(s, &s->cell[i]);
        char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
        json_decref(j);
        if (!text) return ml_fail_memory(err, 0, "a line of sweep.jsonl");
        ml_status status = ml_file_printf(w, err, "%s\n", text);
        free(text);
        ML_TRY(status);
    }
    return ML_OK;
}

/* ---- sweep.md ---- */

static const ml_sweep_cell *cell_at(const ml_sweep *s, size_t run_id, size_t seed_id)
{
    return &s->cell[seed_id * s->n_run + run_id];
}

static ml_status write_row(const ml_sweep *s, size_t run_id, ml_file_writer *w, ml_error *err)
{
    const ml_options *o = cell_at(s, run_id, 0)->o;
    double sum = 0, squares = 0;
    int n = 0;
    ML_TRY(ml_file_printf(w, err, "| %s | %s | %g | %g | %lld |", s->name[run_id], ml_options_text(o, "optim.name"),
                          ml_options_real(o, "optim.lr"), ml_options_real(o, "optim.weight_decay"),
                          (long long)ml_options_int(o, "train.steps")));
    for (size_t k = 0; k < s->n_seed; k++) {
        int64_t step;
        const ml_sweep_cell *c = cell_at(s, run_id, k);
        double loss = ml_sweep_lowest_loss(c, &step);
        if (c->is_diverged) {
            ML_TRY(ml_file_printf(w, err, " diverged |"));
        } else if (isnan(loss)) {
            ML_TRY(ml_file_printf(w, err, " |"));
        } else {
            ML_TRY(ml_file_printf(w, err, " %.4f |", loss));
            n++;
            sum += loss;
            squares += loss * loss;
        }
    }
    if (n == 0) return ml_file_printf(w, err, " | |\n");
    double mean = sum / n, variance = n > 1 ? fmax(0, (squares - n * mean * mean) / (n - 1)) : 0;
    ML_TRY(ml_file_printf(w, err, " %.4f |", mean));
    return n > 1 ? ml_file_printf(w, err, " %.4f |\n", sqrt(variance)) : ml_file_printf(w, err, " |\n");
}

static ml_status write_table(const ml_sweep *s, ml_file_writer *w, ml_error *err)
{
    ML_TRY(ml_file_printf(w, err,
                          "Lowest validation loss of each run and seed; sd is the sample standard deviation "
                          "over seeds.\n\n| run | optimizer | lr | wd | steps |"));
    for (size_t k = 0; k < s->n_seed; k++) {
        ML_TRY(ml_file_printf(w, err, " seed %lld |", (long long)cell_at(s, 0, k)->seed));
    }
    ML_TRY(ml_file_printf(w, err, " mean | sd |\n|---|---|--:|--:|--:|"));
    for (size_t k = 0; k < s->n_seed + 2; k++) ML_TRY(ml_file_printf(w, err, "--:|"));
    ML_TRY(ml_file_printf(w, err, "\n"));
    for (size_t i = 0; i < s->n_run; i++) ML_TRY(write_row(s, i, w, err));
    return ML_OK;
}

/* ---- sweep.svg ---- */

typedef struct {
    ml_chart_line *line;
    size_t n_line;
    double *point; /* x and y of all lines */
    size_t n_point;
    double low, high; /* of what is worth showing: every run after a quarter of its steps */
} chart;

/* A line over the evaluations of `cell`, with its points in *x and *y to be filled. */
static ml_chart_line *add_line(chart *c, const ml_sweep_cell *cell, double **x, double **y)
{
    ml_chart_line *line = &c->line[c->n_line++];
    *x = c->point + c->n_point;
    *y = *x + cell->n_eval;
    *line = (ml_chart_line){ .x = *x, .y = *y, .n = cell->n_eval, .colour = (int)cell->run_id };
    c->n_point += 2 * cell->n_eval;
    for (size_t i = 0; i < cell->n_eval; i++) (*x)[i] = (double)cell->eval_step[i];
    return line;
}

static void add_cell(chart *c, const ml_sweep_cell *cell)
{
    double *x, *y;
    add_line(c, cell, &x, &y)->faint = true;
    int64_t quarter = ml_options_int(cell->o, "train.steps") / 4;
    for (size_t i = 0; i < cell->n_eval; i++) {
        double loss = cell->eval_loss[i];
        y[i] = loss;
        if (cell->eval_step[i] < quarter || !isfinite(loss)) continue;
        c->low = fmin(c->low, loss);
        c->high = fmax(c->high, loss);
    }
}

/* The mean over the seeds that are done; they were evaluated at the same steps. */
static void add_mean(chart *c, const ml_sweep *s, size_t run_id)
{
    const ml_sweep_cell *first = NULL;
    for (size_t k = 0; k < s->n_seed; k++) {
        const ml_sweep_cell *cell = cell_at(s, run_id, k);
        if (cell->is_done && (!first || cell->n_eval < first->n_eval)) first = cell;
    }
    if (!first || first->n_eval == 0) return;
    double *x, *y;
    add_line(c, first, &x, &y)->name = s->name[run_id];
    for (size_t i = 0; i < first->n_eval; i++) {
        double sum = 0;
        int n = 0;
        for (size_t k = 0; k < s->n_seed; k++) {
            const ml_sweep_cell *cell = cell_at(s, run_id, k);
            if (!cell->is_done) continue;
            sum += cell->eval_loss[i];
            n++;
        }
        y[i] = sum / n;
    }
}

static ml_status make_chart(const ml_sweep *s, chart *c, ml_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_cell; i++) n += s->cell[i].n_eval;
    *c = (chart){ .low = INFINITY, .high = -INFINITY };
    c->line = ml_calloc(s->n_cell + s->n_run, sizeof *c->line);
    c->point = ml_calloc(4 * n, sizeof *c->point); /* seeds and means, x and y */
    if (!c->line || !c->point) return ml_fail_memory(err, 4 * n * sizeof *c->point, "the points of a chart");
    for (size_t i = 0; i < s->n_cell; i++) add_cell(c, &s->cell[i]);
    for (size_t i = 0; i < s->n_run; i++) add_mean(c, s, i);
    return ML_OK;
}

static ml_status write_chart(const ml_sweep *s, ml_file_writer *w, ml_error *err)
{
    chart c;
    ml_status status = make_chart(s, &c, err);
    if (status == ML_OK) {
        double margin = 0.04 * (c.high - c.low);
        ml_chart_lines plot = {
            .frame = { .title = s->n_seed > 1 ? "Validation loss: mean and single seeds" : "Validation loss",
                       .x_label = "step",
                       .y_label = "loss (nats per token)" },
            .line = c.line,
            .n_line = c.n_line,
        };
        if (c.high > c.low) {
            plot.y_min = c.low - margin;
            plot.y_max = c.high + margin;
        }
        ml_chart_write_lines(&plot, w->file);
    }
    ml_free(c.line);
    ml_free(c.point);
    return status;
}

/* ---- all three ---- */

static ml_status write_file(const ml_sweep *s, const char *name,
                            ml_status (*write)(const ml_sweep *s, ml_file_writer *w, ml_error *err), ml_error *err)
{
    char path[ML_PATH_MAX];
    ml_file_writer w;
    ML_TRY(ml_path_join(path, s->folder, name, err));
    ML_TRY(ml_file_begin(&w, path, err));
    ml_status status = write(s, &w, err);
    if (status == ML_OK) return ml_file_commit(&w, err);
    ml_file_abandon(&w);
    return status;
}

ml_status ml_sweep_write_results(const ml_sweep *s, ml_error *err)
{
    ML_TRY(write_file(s, "sweep.jsonl", write_lines, err));
    ML_TRY(write_file(s, "sweep.md", write_table, err));
    return write_file(s, "sweep.svg", write_chart, err);
}

#include "report/scores.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

typedef struct {
    ml_report_measure *item;
    size_t n, capacity;
} measures;

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

bool ml_report_measure_is_beside(const ml_report_measure *a, const ml_report_measure *b)
{
    return !strcmp(a->task, b->task) && !strcmp(a->data, b->data);
}

static bool is_listed(const measures *all, const ml_report_measure *m)
{
    for (size_t i = 0; i < all->n; i++) {
        if (ml_report_measure_is_beside(&all->item[i], m) && !strcmp(all->item[i].name, m->name)) return true;
    }
    return false;
}

/* Behind the others of its task and data, else at the end. */
static ml_status insert(measures *all, ml_report_measure m, ml_error *err)
{
    if (!*m.name || is_listed(all, &m)) return ML_OK;
    ML_TRY(ml_grow((void **)&all->item, &all->capacity, all->n + 1, sizeof *all->item, err));
    size_t at = all->n;
    for (size_t i = 0; i < all->n; i++) {
        if (ml_report_measure_is_beside(&all->item[i], &m)) at = i + 1;
    }
    memmove(all->item + at + 1, all->item + at, (all->n - at) * sizeof *all->item);
    all->item[at] = m;
    all->n++;
    return ML_OK;
}

static ml_status insert_all(measures *all, const json_t *record, ml_error *err)
{
    size_t i;
    json_t *score;
    json_array_foreach(json_object_get(record, "scores"), i, score)
    {
        ml_report_measure m = { text_of(record, "task"), text_of(record, "data"), text_of(score, "name") };
        ML_TRY(insert(all, m, err));
    }
    return ML_OK;
}

ml_status ml_report_measures_list(const ml_report *report, ml_report_measure **out, size_t *n, ml_error *err)
{
    measures all = { 0 };
    ml_status status = ML_OK;
    for (size_t r = 0; r < report->n_run; r++) {
        size_t i;
        json_t *record;
        json_array_foreach(report->run[r].evals, i, record)
        {
            if (status == ML_OK) status = insert_all(&all, record, err);
        }
    }
    if (status != ML_OK) ml_free(all.item);
    *out = status == ML_OK ? all.item : NULL;
    *n = status == ML_OK ? all.n : 0;
    return status;
}

/* The score of that name in a record; NULL. */
static const json_t *find_in(const json_t *record, const ml_report_measure *m)
{
    const ml_report_measure of = { text_of(record, "task"), text_of(record, "data"), "" };
    if (!ml_report_measure_is_beside(&of, m)) return NULL;
    size_t i;
    json_t *score;
    json_array_foreach(json_object_get(record, "scores"), i, score)
    {
        if (!strcmp(text_of(score, "name"), m->name)) return score;
    }
    return NULL;
}

bool ml_report_score_find(const ml_report_run *r, const ml_report_measure *m, ml_report_score *out)
{
    for (size_t i = json_array_size(r->evals); i-- > 0;) {
        const json_t *record = json_array_get(r->evals, i), *score = find_in(record, m);
        if (!score) continue;
        const json_t *value = json_object_get(score, "value"); /* null: the model gave no number */
        *out = (ml_report_score){ .step = json_integer_value(json_object_get(record, "step")),
                                  .count = json_integer_value(json_object_get(score, "count")),
                                  .of = json_integer_value(json_object_get(score, "of")),
                                  .value = json_is_number(value) ? json_number_value(value) : (double)NAN,
                                  .error = json_number_value(json_object_get(score, "error")) };
        return true;
    }
    return false;
}

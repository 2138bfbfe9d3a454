#include "data/parquet.h"

#include "base/alloc.h"
#include "data/parquet_internal.h"

/* ---- life ---- */

static ml_status list_columns(ml_parquet *p, ml_error *err)
{
    const ml_parquet_schema *s = &p->meta.schema;
    p->column = ml_calloc(s->element[0].n_child, sizeof *p->column);
    p->selected = ml_calloc(s->element[0].n_child, sizeof *p->selected);
    p->reader = ml_calloc(s->n_leaf, sizeof *p->reader);
    if (!p->column || !p->selected || !p->reader)
        return ml_fail_memory(err, s->n_leaf * sizeof *p->reader, "the columns of a Parquet file");
    for (const ml_parquet_node *node = s->node[0].child; node; node = node->next) {
        p->selected[p->n_column] = true;
        p->column[p->n_column++] = node;
    }
    return ML_OK;
}

static void measure(ml_parquet *p)
{
    p->size = 0;
    size_t n_leaf = p->meta.schema.n_leaf;
    for (size_t i = 0; i < p->n_column; i++) {
        const ml_parquet_node *node = p->column[i];
        for (size_t g = 0; p->selected[i] && g < p->meta.n_group; g++) {
            for (size_t leaf = node->first_leaf; leaf < node->first_leaf + node->n_leaf; leaf++) {
                /* a lie in the file makes a wrong estimate, no more */
                if (__builtin_add_overflow(p->size, p->meta.chunk[g * n_leaf + leaf].n_bytes, &p->size))
                    p->size = UINT64_MAX;
            }
        }
    }
}

static ml_status open_file(ml_parquet *p, const char *name, const uint8_t *data, size_t size, ml_error *err)
{
    p->data = data;
    p->name = ml_strdup(name);
    if (!p->name) return ml_fail_memory(err, strlen(name) + 1, "the name of a file");
    if (ml_parquet_meta_read(&p->meta, data, size, err) != ML_OK || list_columns(p, err) != ML_OK)
        return ml_fail_prefix(err, "%s", name);
    measure(p);
    return ML_OK;
}

ml_status ml_parquet_open(const char *path, ml_parquet **out, ml_error *err)
{
    *out = NULL;
    ml_parquet *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a Parquet file");
    ml_status status;
    ML_TRY_GOTO(ml_map_open(path, &p->map, err));
    ML_TRY_GOTO(open_file(p, path, p->map.data, p->map.size, err));
    *out = p;
    p = NULL;
done:
    ml_parquet_free(p);
    return status;
}

ml_status ml_parquet_open_memory(const uint8_t *data, size_t size, const char *name, ml_parquet **out, ml_error *err)
{
    *out = NULL;
    ml_parquet *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a Parquet file");
    ml_status status = open_file(p, name, data, size, err);
    if (status == ML_OK)
        *out = p;
    else
        ml_parquet_free(p);
    return status;
}

void ml_parquet_free(ml_parquet *p)
{
    if (!p) return;
    for (size_t i = 0; p->reader && i < p->meta.schema.n_leaf; i++) ml_parquet_column_free(&p->reader[i]);
    ml_free(p->reader);
    ml_free(p->selected);
    ml_free(p->column);
    ml_parquet_meta_free(&p->meta);
    ml_parquet_codecs_free(&p->codecs);
    ml_map_close(&p->map);
    ml_free(p->name);
    ml_free(p);
}

/* ---- columns ---- */

uint64_t ml_parquet_file_size(const ml_parquet *p)
{
    return p->meta.file_size;
}

uint64_t ml_parquet_row_count(const ml_parquet *p)
{
    return p->meta.n_row;
}

const ml_parquet_node *ml_parquet_schema_of(const ml_parquet *p)
{
    return &p->meta.schema.node[0];
}

size_t ml_parquet_column_count(const ml_parquet *p)
{
    return p->n_column;
}

void ml_parquet_column_names(const ml_parquet *p, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < p->n_column && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i ? ", " : "", p->column[i]->name);
        used += n > 0 ? (size_t)n : 0;
    }
}

int64_t ml_parquet_find(const ml_parquet *p, const char *name)
{
    for (size_t i = 0; i < p->n_column; i++) {
        if (strcmp(p->column[i]->name, name) == 0) return (int64_t)i;
    }
    return -1;
}

bool ml_parquet_is_text(const ml_parquet *p, size_t column)
{
    const ml_parquet_node *node = p->column[column];
    return node->kind == ML_PARQUET_LEAF && node->element->type == ML_PARQUET_BYTES &&
           (node->element->meaning == ML_PARQUET_TEXT || node->element->meaning == ML_PARQUET_AS_STORED);
}

ml_status ml_parquet_select(ml_parquet *p, const size_t *column, size_t n, ml_error *err)
{
    if (p->next_row || p->group_open)
        return ml_fail(err, ML_EINVAL, "%s: columns are chosen before the first row is read", p->name);
    memset(p->selected, 0, p->n_column * sizeof *p->selected);
    for (size_t i = 0; i < n; i++) p->selected[column[i]] = true;
    measure(p);
    return ML_OK;
}

uint64_t ml_parquet_size(const ml_parquet *p)
{
    return p->size;
}

uint64_t ml_parquet_at(const ml_parquet *p)
{
    if (p->next_row >= p->meta.n_row) return p->size;
    return (uint64_t)((double)p->size * ((double)p->next_row / (double)p->meta.n_row));
}

/* ---- reading ---- */

static bool is_read(const ml_parquet *p, size_t column, size_t *leaf, size_t *end)
{
    *leaf = p->column[column]->first_leaf;
    *end = *leaf + p->column[column]->n_leaf;
    return p->selected[column];
}

/* Rows that hold about 256 KB by the file's own account, so that a batch ends near its limit. */
static size_t choose_step(const ml_parquet *p, const ml_parquet_chunk *chunk, uint64_t n_row)
{
    enum { STEP_BYTES = 1 << 18, MAX_STEP = 1024 };
    double n_bytes = 1;
    for (size_t i = 0, leaf, end; i < p->n_column; i++) {
        for (bool read = is_read(p, i, &leaf, &end); read && leaf < end; leaf++)
            n_bytes += (double)chunk[leaf].n_bytes + 8.0 * (double)chunk[leaf].n_value;
    }
    double step = STEP_BYTES * (double)n_row / n_bytes;
    return step < 1 ? 1 : step > MAX_STEP ? MAX_STEP : (size_t)step;
}

static void open_group(ml_parquet *p)
{
    const ml_parquet_schema *s = &p->meta.schema;
    const ml_parquet_chunk *chunk = p->meta.chunk + p->group * s->n_leaf;
    p->group_open = true;
    p->group_left = p->meta.group_rows[p->group];
    p->step = choose_step(p, chunk, p->group_left);
    for (size_t i = 0, leaf, end; i < p->n_column; i++) {
        for (bool read = is_read(p, i, &leaf, &end); read && leaf < end; leaf++)
            ml_parquet_column_open(&p->reader[leaf], s->leaf[leaf], &chunk[leaf], p->data, p->meta.data_end,
                                   &p->codecs);
    }
}

static ml_status close_group(ml_parquet *p, ml_error *err)
{
    for (size_t i = 0, leaf, end; i < p->n_column; i++) {
        for (bool read = is_read(p, i, &leaf, &end); read && leaf < end; leaf++)
            ML_TRY(ml_parquet_column_close(&p->reader[leaf], err));
    }
    p->group_open = false;
    p->group++;
    return ML_OK;
}

/* The next n rows of the group in every column; *n_bytes becomes the size of the batch. */
static ml_status read_step(ml_parquet *p, size_t n, ml_parquet_batch *batch, size_t *n_bytes, ml_error *err)
{
    *n_bytes = 0;
    for (size_t i = 0, leaf, end; i < p->n_column; i++) {
        for (bool read = is_read(p, i, &leaf, &end); read && leaf < end; leaf++) {
            ML_TRY(ml_parquet_column_read(&p->reader[leaf], n, &batch->column[leaf], err));
            *n_bytes += ml_parquet_entries_size(&batch->column[leaf]);
        }
    }
    p->group_left -= n;
    p->next_row += n;
    batch->n_row += n;
    return ML_OK;
}

static ml_status clear_batch(const ml_parquet *p, ml_parquet_batch *batch, ml_error *err)
{
    if (batch->parquet != p) {
        ml_parquet_batch_free(batch);
        batch->column = ml_calloc(p->meta.schema.n_leaf, sizeof *batch->column);
        if (!batch->column) return ml_fail_memory(err, sizeof *batch->column, "a batch of rows");
        batch->n_column = p->meta.schema.n_leaf;
        batch->parquet = p;
    }
    for (size_t i = 0; i < batch->n_column; i++) ml_parquet_entries_clear(&batch->column[i]);
    batch->first_row = p->next_row;
    batch->n_row = 0;
    return ML_OK;
}

ml_status ml_parquet_read(ml_parquet *p, size_t max_rows, size_t max_bytes, ml_parquet_batch *batch, ml_error *err)
{
    size_t n_bytes = 0;
    ML_TRY(clear_batch(p, batch, err));
    while (batch->n_row < max_rows && n_bytes < max_bytes) {
        if (!p->group_open) {
            if (batch->n_row || p->group == p->meta.n_group) break;
            open_group(p);
        }
        size_t n = max_rows - batch->n_row < p->step ? max_rows - batch->n_row : p->step;
        if (n > p->group_left) n = (size_t)p->group_left;
        ml_status status = read_step(p, n, batch, &n_bytes, err);
        if (status == ML_OK && p->group_left == 0) status = close_group(p, err);
        if (status != ML_OK) return ml_fail_prefix(err, "%s", p->name);
    }
    return ML_OK;
}

void ml_parquet_batch_free(ml_parquet_batch *batch)
{
    for (size_t i = 0; i < batch->n_column; i++) ml_parquet_entries_free(&batch->column[i]);
    ml_free(batch->column);
    *batch = (ml_parquet_batch){ 0 };
}

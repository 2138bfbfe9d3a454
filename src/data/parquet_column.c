#include "data/parquet_column.h"

#include "base/alloc.h"

#include <zlib.h>

/* ---- entries ---- */

void ml_parquet_entries_free(ml_parquet_entries *e)
{
    ml_free(e->def);
    ml_free(e->rep);
    ml_free(e->row_entry);
    ml_free(e->row_value);
    ml_parquet_values_free(&e->values);
    *e = (ml_parquet_entries){ 0 };
}

void ml_parquet_entries_clear(ml_parquet_entries *e)
{
    e->n_entry = e->n_row = 0;
    e->values.n = e->values.n_bytes = 0;
}

size_t ml_parquet_entries_size(const ml_parquet_entries *e)
{
    return 2 * e->n_entry + 16 * e->n_row + 8 * e->values.n + e->values.n_bytes;
}

static ml_status grow_bytes(uint8_t **bytes, size_t *capacity, size_t need, ml_error *err)
{
    void *items = *bytes;
    ML_TRY(ml_grow(&items, capacity, need, 1, err));
    *bytes = items;
    return ML_OK;
}

static ml_status grow_sizes(size_t **sizes, size_t *capacity, size_t need, ml_error *err)
{
    void *items = *sizes;
    ML_TRY(ml_grow(&items, capacity, need, sizeof **sizes, err));
    *sizes = items;
    return ML_OK;
}

/* Room for n entries, each of which may begin a row. */
static ml_status reserve_entries(ml_parquet_entries *e, size_t n, ml_error *err)
{
    if (n > ML_PARQUET_MAX_ENTRIES - e->n_entry) {
        return ml_fail(err, ML_EFORMAT, "expected at most %d values in some rows, found more: is the file damaged?",
                       ML_PARQUET_MAX_ENTRIES);
    }
    ML_TRY(grow_bytes(&e->def, &e->def_capacity, e->n_entry + n, err));
    ML_TRY(grow_bytes(&e->rep, &e->rep_capacity, e->n_entry + n, err));
    ML_TRY(grow_sizes(&e->row_entry, &e->entry_capacity, e->n_row + n, err));
    return grow_sizes(&e->row_value, &e->value_capacity, e->n_row + n, err);
}

/* ---- pages ---- */

static int bits_of(unsigned max)
{
    int width = 0;
    while (max >> width) width++;
    return width;
}

/* The page's bytes as they are in the file, behind its header. */
static ml_status load_page(ml_parquet_column *c, ml_parquet_page_header *h, const uint8_t **stored, ml_error *err)
{
    c->page_offset = c->b.at;
    ML_TRY(ml_parquet_page_header_read(&c->b, h, err));
    ML_TRY(ml_bytes_take(&c->b, h->n_stored, stored, err));
    if (h->n_bytes > ML_PARQUET_MAX_BYTES) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a page of at most %d bytes, found %u", c->page_offset,
                       ML_PARQUET_MAX_BYTES, h->n_bytes);
    }
    if (!h->has_crc) return ML_OK;
    uint32_t crc = (uint32_t)crc32_z(0, *stored, h->n_stored);
    if (crc == h->crc) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "offset %zu: expected a page with checksum %08x, found %08x: the file is damaged",
                   c->page_offset, h->crc, crc);
}

/* Decompress into the page buffer; what is not compressed stays where it is. */
static ml_status unpack(ml_parquet_column *c, const uint8_t *stored, size_t n_stored, size_t n_bytes, bool compressed,
                        const uint8_t **out, ml_error *err)
{
    if (!compressed || c->codec == ML_PARQUET_UNCOMPRESSED) {
        *out = stored;
        if (n_stored == n_bytes) return ML_OK;
        return ml_fail(err, ML_EFORMAT, "expected %zu bytes that are not compressed, found %zu", n_bytes, n_stored);
    }
    ML_TRY(grow_bytes(&c->page, &c->page_capacity, n_bytes, err));
    *out = c->page;
    return ml_parquet_decompress(c->codecs, c->codec, stored, n_stored, c->page, n_bytes, err);
}

static ml_status read_dictionary(ml_parquet_column *c, const ml_parquet_page_header *h, const uint8_t *stored,
                                 ml_error *err)
{
    const uint8_t *data;
    const ml_parquet_element *e = c->leaf->element;
    size_t least = e->type == ML_PARQUET_FIXED ? (size_t)e->type_length : 4;
    if (c->has_dictionary || !c->at_begin) return ml_fail(err, ML_EFORMAT, "expected one dictionary before all values");
    if (h->encoding != ML_PARQUET_PLAIN && h->encoding != ML_PARQUET_PLAIN_DICTIONARY)
        return ml_fail(err, ML_EFORMAT, "expected a plain dictionary, found encoding %d", h->encoding);
    ML_TRY(unpack(c, stored, h->n_stored, h->n_bytes, true, &data, err));
    if (e->type == ML_PARQUET_BOOLEAN || h->n_value > h->n_bytes / least) {
        return ml_fail(err, ML_EFORMAT, "a dictionary of %u values does not fit into %u bytes", h->n_value, h->n_bytes);
    }
    ML_TRY(ml_parquet_decoder_begin(&c->decoder, e, ML_PARQUET_PLAIN, data, h->n_bytes, NULL, err));
    ML_TRY(ml_parquet_decoder_take(&c->decoder, h->n_value, &c->dictionary, err));
    c->has_dictionary = true;
    return ML_OK;
}

/* Levels in front of the values of a page of version 1: a size and runs. */
static ml_status begin_levels(ml_bytes *b, unsigned max, int encoding, ml_parquet_rle *out, ml_error *err)
{
    uint32_t n_bytes;
    const uint8_t *runs;
    if (max == 0) return ML_OK;
    if (encoding != ML_PARQUET_RLE) {
        return ml_fail(err, ML_EINVAL, "levels in encoding %d are not supported: write the file again", encoding);
    }
    ML_TRY(ml_bytes_u32(b, &n_bytes, err));
    ML_TRY(ml_bytes_take(b, n_bytes, &runs, err));
    *out = ml_parquet_rle_begin(runs, n_bytes, bits_of(max));
    return ML_OK;
}

static ml_status begin_v1(ml_parquet_column *c, const ml_parquet_page_header *h, const uint8_t *stored, ml_error *err)
{
    const uint8_t *data;
    ML_TRY(unpack(c, stored, h->n_stored, h->n_bytes, true, &data, err));
    ml_bytes b = { data, h->n_bytes, 0 };
    ML_TRY(begin_levels(&b, c->leaf->max_rep, h->rep_encoding, &c->rep_coded, err));
    ML_TRY(begin_levels(&b, c->leaf->max_def, h->def_encoding, &c->def_coded, err));
    return ml_parquet_decoder_begin(&c->decoder, c->leaf->element, h->encoding, b.data + b.at, b.size - b.at,
                                    c->has_dictionary ? &c->dictionary : NULL, err);
}

/* Version 2: the levels come first and are not compressed. */
static ml_status begin_v2(ml_parquet_column *c, const ml_parquet_page_header *h, const uint8_t *stored, ml_error *err)
{
    const uint8_t *data;
    uint64_t n_levels = (uint64_t)h->rep_bytes + h->def_bytes;
    if (n_levels > h->n_stored || n_levels > h->n_bytes) {
        return ml_fail(err, ML_EFORMAT, "%llu bytes of levels do not fit into a page of %u",
                       (unsigned long long)n_levels, h->n_bytes);
    }
    c->rep_coded = ml_parquet_rle_begin(stored, h->rep_bytes, bits_of(c->leaf->max_rep));
    c->def_coded = ml_parquet_rle_begin(stored + h->rep_bytes, h->def_bytes, bits_of(c->leaf->max_def));
    ML_TRY(unpack(c, stored + n_levels, h->n_stored - (size_t)n_levels, h->n_bytes - (size_t)n_levels, h->is_compressed,
                  &data, err));
    return ml_parquet_decoder_begin(&c->decoder, c->leaf->element, h->encoding, data, h->n_bytes - (size_t)n_levels,
                                    c->has_dictionary ? &c->dictionary : NULL, err);
}

static ml_status begin_page(ml_parquet_column *c, const ml_parquet_page_header *h, const uint8_t *stored, ml_error *err)
{
    if (h->type == ML_PARQUET_DICTIONARY_PAGE) return read_dictionary(c, h, stored, err);
    if (h->type != ML_PARQUET_DATA_PAGE && h->type != ML_PARQUET_DATA_PAGE_V2) return ML_OK;
    if (h->n_value > c->n_left) {
        return ml_fail(err, ML_EFORMAT, "expected at most %llu values, found %u", (unsigned long long)c->n_left,
                       h->n_value);
    }
    ML_TRY(h->type == ML_PARQUET_DATA_PAGE ? begin_v1(c, h, stored, err) : begin_v2(c, h, stored, err));
    c->page_left = h->n_value;
    c->n_left -= h->n_value;
    return ML_OK;
}

static ml_status fail_page(const ml_parquet_column *c, ml_error *err)
{
    return ml_fail_prefix(err, "column \"%s\", page at offset %zu", c->leaf->name, c->page_offset);
}

static ml_status next_page(ml_parquet_column *c, ml_error *err)
{
    ml_parquet_page_header h;
    const uint8_t *stored;
    ML_TRY(load_page(c, &h, &stored, err));
    return begin_page(c, &h, stored, err) == ML_OK ? ML_OK : fail_page(c, err);
}

/* ---- levels ---- */

static ml_status decode_levels(ml_parquet_rle *coded, unsigned max, uint8_t *out, size_t n, ml_error *err)
{
    uint32_t level[ML_PARQUET_LEVELS], highest = 0;
    if (max == 0) {
        memset(out, 0, n);
        return ML_OK;
    }
    ML_TRY(ml_parquet_rle_take(coded, level, n, err));
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)level[i];
        highest = level[i] > highest ? level[i] : highest;
    }
    if (highest <= max) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "expected levels of at most %u, found %u", max, highest);
}

/* Have decoded levels at hand; none are left only at the end of the chunk. */
static ml_status fill_levels(ml_parquet_column *c, ml_error *err)
{
    while (c->level_at == c->n_level) {
        if (c->page_left == 0 && c->n_left == 0) return ML_OK;
        if (c->page_left == 0) {
            ML_TRY(next_page(c, err));
            continue;
        }
        size_t n = c->page_left < ML_PARQUET_LEVELS ? c->page_left : ML_PARQUET_LEVELS;
        if (decode_levels(&c->rep_coded, c->leaf->max_rep, c->rep, n, err) != ML_OK ||
            decode_levels(&c->def_coded, c->leaf->max_def, c->def, n, err) != ML_OK)
            return fail_page(c, err);
        c->page_left -= (uint32_t)n;
        c->level_at = 0;
        c->n_level = n;
    }
    return ML_OK;
}

/* ---- rows ---- */

/* Note the rows that begin among the next n entries, up to *n_row of them; returns how many entries belong to them
 * and to the row before, and takes the rows off *n_row. */
static size_t mark_rows(const ml_parquet_column *c, ml_parquet_entries *out, size_t n, size_t *n_row, size_t *n_value)
{
    const uint8_t *def = c->def + c->level_at, *rep = c->rep + c->level_at;
    unsigned max_def = c->leaf->max_def;
    size_t i, count = 0;
    for (i = 0; i < n; i++) {
        if (rep[i] == 0) {
            if (*n_row == 0) break;
            --*n_row;
            out->row_entry[out->n_row] = out->n_entry + i;
            out->row_value[out->n_row++] = out->values.n + count;
        }
        count += def[i] == max_def;
    }
    *n_value = count;
    return i;
}

static ml_status append_entries(ml_parquet_column *c, size_t *n_row, ml_parquet_entries *out, ml_error *err)
{
    size_t n = c->n_level - c->level_at, n_value;
    if (c->at_begin && c->rep[c->level_at] != 0)
        return ml_fail(err, ML_EFORMAT, "expected a row to begin, found a repetition");
    c->at_begin = false;
    ML_TRY(reserve_entries(out, n, err));
    n = mark_rows(c, out, n, n_row, &n_value);
    memcpy(out->def + out->n_entry, c->def + c->level_at, n);
    memcpy(out->rep + out->n_entry, c->rep + c->level_at, n);
    out->n_entry += n;
    c->level_at += n;
    return ml_parquet_decoder_take(&c->decoder, n_value, &out->values, err);
}

ml_status ml_parquet_column_read(ml_parquet_column *c, size_t n_row, ml_parquet_entries *out, ml_error *err)
{
    size_t wanted = n_row;
    while (true) {
        if (n_row == 0 && c->leaf->max_rep == 0) return ML_OK; /* no entry more can belong to the last row */
        ML_TRY(fill_levels(c, err));
        if (c->level_at == c->n_level) break;
        if (n_row == 0 && c->rep[c->level_at] == 0) break;
        if (append_entries(c, &n_row, out, err) != ML_OK) return fail_page(c, err);
    }
    if (n_row == 0) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "column \"%s\" ends %zu rows before its row group (page at offset %zu, %zu wanted)",
                   c->leaf->name, n_row, c->page_offset, wanted);
}

ml_status ml_parquet_column_close(ml_parquet_column *c, ml_error *err)
{
    uint64_t n = c->n_left + c->page_left + (c->n_level - c->level_at);
    if (n == 0) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "column \"%s\" has %llu values behind the last row of its row group", c->leaf->name,
                   (unsigned long long)n);
}

/* ---- life ---- */

void ml_parquet_column_open(ml_parquet_column *c, const ml_parquet_node *leaf, const ml_parquet_chunk *chunk,
                            const uint8_t *data, size_t data_end, ml_parquet_codecs *codecs)
{
    c->leaf = leaf;
    c->codecs = codecs;
    c->codec = chunk->codec;
    c->b = (ml_bytes){ data, data_end, (size_t)chunk->offset };
    c->n_left = chunk->n_value;
    c->at_begin = true;
    c->page_offset = (size_t)chunk->offset;
    c->page_left = 0;
    c->has_dictionary = false;
    c->dictionary.n = c->dictionary.n_bytes = 0;
    c->level_at = c->n_level = 0;
}

void ml_parquet_column_free(ml_parquet_column *c)
{
    ml_free(c->page);
    ml_parquet_decoder_free(&c->decoder);
    ml_parquet_values_free(&c->dictionary);
    *c = (ml_parquet_column){ 0 };
}

/* One leaf column of a Parquet file, read page by page: bytes of the file -> entries and values of some rows. */
#ifndef ML_DATA_PARQUET_COLUMN_H
#define ML_DATA_PARQUET_COLUMN_H

#include "data/parquet_codec.h"
#include "data/parquet_meta.h"
#include "data/parquet_values.h"

enum {
    ML_PARQUET_MAX_ENTRIES = 1 << 22, /* of a column held at once */
    ML_PARQUET_LEVELS = 1024,         /* decoded together */
};

/* A leaf's part of a batch of rows.  Start zeroed. */
typedef struct ml_parquet_entries {
    uint8_t *def, *rep; /* [n_entry] levels */
    size_t n_entry, def_capacity, rep_capacity;
    size_t *row_entry, *row_value; /* [n_row] the first entry and the first value of each row */
    size_t n_row, entry_capacity, value_capacity;
    ml_parquet_values values; /* of the entries whose definition level is the leaf's highest */
} ml_parquet_entries;

void ml_parquet_entries_free(ml_parquet_entries *e);
void ml_parquet_entries_clear(ml_parquet_entries *e);
/* Bytes it holds, about. */
size_t ml_parquet_entries_size(const ml_parquet_entries *e);

/* Where reading stands in a chunk.  Start zeroed; open may be called again for the next row group. */
typedef struct {
    const ml_parquet_node *leaf;
    ml_parquet_codecs *codecs;
    int codec;
    ml_bytes b;         /* the file up to the footer; the next page header */
    uint64_t n_left;    /* entries of the chunk that are in pages still to be read */
    bool at_begin;      /* no entry has been read */
    size_t page_offset; /* of the header of the page at hand */
    uint32_t page_left; /* its entries whose levels are still coded */
    uint8_t *page;      /* decompressed */
    size_t page_capacity;
    ml_parquet_rle def_coded, rep_coded;
    ml_parquet_decoder decoder;
    bool has_dictionary;
    ml_parquet_values dictionary;
    uint8_t def[ML_PARQUET_LEVELS], rep[ML_PARQUET_LEVELS]; /* decoded ahead: [level_at, n_level) */
    size_t level_at, n_level;
} ml_parquet_column;

void ml_parquet_column_open(ml_parquet_column *c, const ml_parquet_node *leaf, const ml_parquet_chunk *chunk,
                            const uint8_t *data, size_t data_end, ml_parquet_codecs *codecs);
/* Append the next n_row rows.  ML_EFORMAT names the offset of the page. */
ml_status ml_parquet_column_read(ml_parquet_column *c, size_t n_row, ml_parquet_entries *out, ml_error *err);
/* Behind the last row of the group: ML_EFORMAT if the chunk holds more. */
ml_status ml_parquet_column_close(ml_parquet_column *c, ml_error *err);
void ml_parquet_column_free(ml_parquet_column *c);

#endif

/* The footer of a Parquet file and the headers of its pages.
 *
 *   "PAR1"  column chunks: pages, each a header (Thrift) and its bytes  ...  footer (Thrift)  u32 footer size  "PAR1"
 *
 * A row group holds one chunk of each leaf column; a chunk is an optional dictionary page and data pages. */
#ifndef ML_DATA_PARQUET_META_H
#define ML_DATA_PARQUET_META_H

#include "base/bytes.h"
#include "data/parquet_schema.h"

/* Numbers of the format. */
typedef enum {
    ML_PARQUET_UNCOMPRESSED = 0,
    ML_PARQUET_SNAPPY,
    ML_PARQUET_GZIP,
    ML_PARQUET_LZO,
    ML_PARQUET_BROTLI,
    ML_PARQUET_LZ4_HADOOP,
    ML_PARQUET_ZSTD,
    ML_PARQUET_LZ4_RAW,
} ml_parquet_codec;

typedef enum {
    ML_PARQUET_PLAIN = 0,
    ML_PARQUET_PLAIN_DICTIONARY = 2,
    ML_PARQUET_RLE,
    ML_PARQUET_BIT_PACKED,
    ML_PARQUET_DELTA_BINARY_PACKED,
    ML_PARQUET_DELTA_LENGTH_BYTE_ARRAY,
    ML_PARQUET_DELTA_BYTE_ARRAY,
    ML_PARQUET_RLE_DICTIONARY,
    ML_PARQUET_BYTE_STREAM_SPLIT,
} ml_parquet_encoding;

typedef struct {
    int codec;        /* ml_parquet_codec, or a number nobody here knows */
    uint64_t n_value; /* entries, nulls included */
    uint64_t offset;  /* of its first page */
    uint64_t n_bytes; /* decompressed, as the file says: an estimate */
} ml_parquet_chunk;

typedef struct {
    ml_parquet_schema schema;
    ml_parquet_chunk *chunk; /* [n_group][schema.n_leaf] */
    uint64_t *group_rows;    /* [n_group] */
    size_t n_group;
    uint64_t n_row;
    size_t file_size;
    size_t data_end; /* offset of the footer: pages lie before it */
} ml_parquet_meta;

/* Start zeroed; free also after a failure.  ML_EFORMAT names the offset; ML_EINVAL for an encrypted file or one whose
 * columns lie in other files.  Nothing of `data` is kept. */
ml_status ml_parquet_meta_read(ml_parquet_meta *meta, const uint8_t *data, size_t size, ml_error *err);
void ml_parquet_meta_free(ml_parquet_meta *meta);

typedef enum {
    ML_PARQUET_DATA_PAGE = 0,
    ML_PARQUET_INDEX_PAGE,
    ML_PARQUET_DICTIONARY_PAGE,
    ML_PARQUET_DATA_PAGE_V2
} ml_parquet_page_type;

typedef struct {
    int type; /* ml_parquet_page_type; others are to be passed over */
    int encoding, def_encoding, rep_encoding;
    uint32_t n_value;
    uint32_t n_bytes, n_stored;    /* decompressed and in the file */
    uint32_t def_bytes, rep_bytes; /* version 2: levels, at the front, never compressed */
    bool is_compressed, has_crc;
    uint32_t crc;
} ml_parquet_page_header;

ml_status ml_parquet_page_header_read(ml_bytes *b, ml_parquet_page_header *header, ml_error *err);

#endif

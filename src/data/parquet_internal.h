/* What parquet.c and parquet_assemble.c share. */
#ifndef ML_DATA_PARQUET_INTERNAL_H
#define ML_DATA_PARQUET_INTERNAL_H

#include "base/file.h"
#include "data/parquet.h"
#include "data/parquet_column.h"

struct ml_parquet {
    char *name;
    ml_map map;
    const uint8_t *data;
    ml_parquet_meta meta;
    const ml_parquet_node **column; /* [n_column] children of the row */
    size_t n_column;
    bool *selected;            /* [n_column] */
    ml_parquet_column *reader; /* [n_leaf]; those of columns that are not selected stay closed */
    ml_parquet_codecs codecs;
    size_t group; /* row group at hand; n_group at the end */
    bool group_open;
    uint64_t group_left; /* its rows still to be read */
    uint64_t next_row;
    size_t step;   /* rows that every column reads before the batch is looked at */
    uint64_t size; /* of the selected columns */
};

#endif

/* The schema of a Parquet file as a tree of rows, lists and values.
 *
 * Values of one leaf lie end to end in a column, each entry with two levels (Dremel): the definition level says how
 * many of the optional and repeated nodes on the way to it are there, the repetition level at which repeated node a
 * new element begins; 0 is a new row.  Every node here knows the levels that matter to it. */
#ifndef ML_DATA_PARQUET_SCHEMA_H
#define ML_DATA_PARQUET_SCHEMA_H

#include "base/status.h"

#include <stdbool.h>

typedef enum {
    ML_PARQUET_BOOLEAN = 0,
    ML_PARQUET_INT32,
    ML_PARQUET_INT64,
    ML_PARQUET_INT96,
    ML_PARQUET_FLOAT,
    ML_PARQUET_DOUBLE,
    ML_PARQUET_BYTES, /* BYTE_ARRAY */
    ML_PARQUET_FIXED, /* FIXED_LEN_BYTE_ARRAY */
    ML_PARQUET_N_TYPE,
} ml_parquet_type;

/* What a leaf's values mean where the type does not say it. */
typedef enum {
    ML_PARQUET_AS_STORED = 0,
    ML_PARQUET_TEXT,
    ML_PARQUET_DECIMAL,
    ML_PARQUET_UNSIGNED,
    ML_PARQUET_FLOAT16,
    ML_PARQUET_UUID,
} ml_parquet_meaning;

typedef enum { ML_PARQUET_REQUIRED = 0, ML_PARQUET_OPTIONAL, ML_PARQUET_REPEATED } ml_parquet_repetition;

/* One element of the footer's flat, depth-first list. */
typedef struct {
    const char *name;
    bool is_leaf;
    bool is_list; /* annotated as a list or a map */
    bool is_map;
    ml_parquet_type type;
    ml_parquet_meaning meaning;
    ml_parquet_repetition repetition;
    int32_t type_length;
    int32_t scale, precision;
    size_t n_child;
} ml_parquet_element;

typedef enum { ML_PARQUET_LEAF = 0, ML_PARQUET_STRUCT, ML_PARQUET_LIST } ml_parquet_kind;

typedef struct ml_parquet_node {
    ml_parquet_kind kind;
    const ml_parquet_element *element; /* NULL for what the list of a repeated field is made of */
    const char *name;
    uint8_t def_present;           /* an entry with a lower definition level is null here, or in a parent */
    uint8_t def_element;           /* LIST: an entry with a lower level is an empty list */
    uint8_t rep;                   /* LIST: an entry with this repetition level is one more element of it */
    uint8_t max_def, max_rep;      /* LEAF */
    size_t first_leaf, n_leaf;     /* leaves below it (a LEAF: itself) */
    struct ml_parquet_node *child; /* LIST: the element; STRUCT: the first of them */
    struct ml_parquet_node *next;  /* of the parent's children */
} ml_parquet_node;

typedef struct {
    ml_parquet_element *element; /* [n_element] */
    size_t n_element;
    ml_parquet_node *node;        /* [0] is the row */
    const ml_parquet_node **leaf; /* [n_leaf], in the order of the columns */
    size_t n_node, n_leaf;
    char *names; /* of the elements */
} ml_parquet_schema;

enum { ML_PARQUET_MAX_DEPTH = 48 };

/* Make the tree of schema->element (all of it filled in).  ML_EFORMAT when counts do not add up or it is nested deeper
 * than ML_PARQUET_MAX_DEPTH. */
ml_status ml_parquet_schema_build(ml_parquet_schema *schema, ml_error *err);
void ml_parquet_schema_free(ml_parquet_schema *schema);

#endif

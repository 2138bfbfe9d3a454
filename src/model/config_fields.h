/* The table of ml_config's fields, shared by overrides (config.c) and config.json (config_json.c). */
#ifndef ML_MODEL_CONFIG_FIELDS_H
#define ML_MODEL_CONFIG_FIELDS_H

#include "model/config.h"

typedef enum { ML_FIELD_INT, ML_FIELD_BOOL, ML_FIELD_REAL, ML_FIELD_CHOICE } ml_field_type;

typedef struct {
    const char *name;
    size_t offset;
    ml_field_type type;
    const char *const *words; /* of a choice, NULL-terminated */
    bool architecture;        /* decides the outputs, not only the training */
} ml_config_field;

extern const ml_config_field ml_config_fields[];
extern const size_t ml_config_n_field;

int64_t *ml_config_field_int(const ml_config *c, const ml_config_field *f);
double *ml_config_field_real(const ml_config *c, const ml_config_field *f);
bool ml_config_field_equal(const ml_config *a, const ml_config *b, const ml_config_field *f);
/* A dense transformer without extras: what reading starts from. */
void ml_config_blank(ml_config *c);

#endif

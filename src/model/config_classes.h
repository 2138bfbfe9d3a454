/* The published classes that config.json may name, and how their keys map to our fields. */
#ifndef ML_MODEL_CONFIG_CLASSES_H
#define ML_MODEL_CONFIG_CLASSES_H

#include "base/json.h"
#include "model/config.h"

typedef struct {
    const char *key;   /* in config.json */
    const char *field; /* in ml_config_fields */
    bool optional;     /* absent or null means what `implied` set */
} ml_config_key;

typedef struct {
    const char *name, *model_type;
    const ml_config_key *keys;     /* ends with a NULL key */
    void (*implied)(ml_config *c); /* what the class implies without a key */
    /* What a table of keys cannot say. */
    ml_status (*read_rest)(const json_t *j, const char *where, ml_config *c, ml_error *err);
    void (*write_rest)(const ml_config *c, json_t *j);
} ml_config_class;

/* In order of preference: dense classes before those that could also say "no experts". */
extern const ml_config_class ml_config_classes[];
extern const int ml_config_n_class;

#endif

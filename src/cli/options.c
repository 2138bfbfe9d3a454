/* The one option table (base/options.h): arguments of verbs first, then the sections of recipes. */
#include "cli/cli.h"

#include <math.h>

/* Rows with a word for their type: scope, section, name, [range or choices,] default, metavar, help. */
#define FLAG(scope, section, name, def, help)                                                                          \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_FLAG, 0, 0, NULL, def, NULL, help                                              \
    }
#define INT(scope, section, name, min, max, def, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_INT, min, max, NULL, def, NULL, help                                           \
    }
#define REAL(scope, section, name, min, max, def, help)                                                                \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_REAL, min, max, NULL, def, NULL, help                                          \
    }
#define CHOICE(scope, section, name, choices, def, help)                                                               \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_CHOICE, 0, 0, choices, def, NULL, help                                         \
    }
#define TEXT(scope, section, name, def, metavar, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_TEXT, 0, 0, NULL, def, metavar, help                                           \
    }
#define LIST(scope, section, name, def, metavar, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_LIST, 0, 0, NULL, def, metavar, help                                           \
    }

const ml_option_row ml_cli_rows[] = {
    FLAG("*", "", "help", "off", "print this help and stop"),
    INT("*", "", "threads", 0, 1024, "0", "threads to use; 0: as many as this process may run on"),
};

const size_t ml_cli_n_rows = sizeof ml_cli_rows / sizeof *ml_cli_rows;

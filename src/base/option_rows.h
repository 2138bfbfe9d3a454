/* Words to write option tables with (base/options.h); for files that hold rows and nothing else. */
#ifndef ML_BASE_OPTION_ROWS_H
#define ML_BASE_OPTION_ROWS_H

#include "base/options.h"

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

#endif

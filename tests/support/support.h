/* What tests share: where the real test data lies, a temporary folder, and short-hands around cmocka. */
#ifndef ML_TESTS_SUPPORT_H
#define ML_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "tensor/device.h"

/* Path of `name` in $MOONLIGHT_TEST_DATA or ../shared/data beside the source tree, in a static buffer; NULL
 * when that folder is absent (the caller then prints "skipped" and calls skip()).  When the folder is there
 * but the file is not, the test fails. */
const char *test_data_path(const char *name);

/* Skip the running cmocka test, saying so, when there is no test data. */
#define SKIP_WITHOUT_DATA(name)                                                                                        \
    do {                                                                                                               \
        if (!test_data_path(name)) {                                                                                   \
            print_message("skipped: no test data (%s)\n", name);                                                       \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

/* The first GPU, for a test program that needs one; without any, says why the program is skipped, to be ended with
 * TEST_SKIPPED. */
bool test_open_device(ml_device **out);
enum { TEST_SKIPPED = 77 }; /* CTest's SKIP_RETURN_CODE */

/* A fresh folder under $TMPDIR or /tmp; test_remove_folder deletes it. Static buffer. */
const char *test_make_folder(void);
void test_remove_folder(const char *path);
/* Path of `name` in a folder, in one of 64 static buffers in turn. */
const char *test_path_in(const char *folder, const char *name);

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        ml_status assert_ok_status = (call);                                                                           \
        if (assert_ok_status != ML_OK) fail_msg("%s: %s", #call, err.message);                                         \
    } while (0)

/* The call fails with this code and its message contains `part`. */
#define assert_fails(call, wanted, part)                                                                               \
    do {                                                                                                               \
        memset(&err, 0, sizeof err);                                                                                   \
        assert_int_equal((call), (wanted));                                                                            \
        if (!strstr(err.message, (part))) fail_msg("message \"%s\" lacks \"%s\"", err.message, (part));                \
    } while (0)

#endif

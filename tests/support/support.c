#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *test_data_path(const char *name)
{
    static char path[ML_PATH_MAX];
    const char *root = getenv("MOONLIGHT_TEST_DATA");
    if (!root) root = MOONLIGHT_SOURCE_DIR "/../shared/data";
    if (!ml_path_is_dir(root)) return NULL;
    snprintf(path, sizeof path, "%s/%s", root, name);
    if (!ml_path_exists(path)) fail_msg("%s is missing from the test data", path);
    return path;
}

const char *test_make_folder(void)
{
    static char path[ML_PATH_MAX];
    const char *root = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/moonlight-test-XXXXXX", root ? root : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

const char *test_path_in(const char *folder, const char *name)
{
    static char path[64][ML_PATH_MAX + 400];
    static int k;
    k = (k + 1) % 64;
    snprintf(path[k], sizeof path[k], "%s/%s", folder, name);
    return path[k];
}

void test_remove_folder(const char *path)
{
    ml_error err;
    assert_ok(ml_dir_remove(path, &err));
}

bool test_open_device(ml_device **out)
{
    ml_error err;
    if (ml_device_open(0, out, &err) == ML_OK) return true;
    printf("skipped: no GPU (%s)\n", err.message);
    return false;
}

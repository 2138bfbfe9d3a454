/* The page as the program holds it: whole, small, and obeying its own policy. */
#include "support/support.h"

#include "base/embedded.h"
#include "base/file.h"
#include "serve/page.h"

#include <stdio.h>
#include <string.h>

static void test_files_are_those_of_the_folder(void **state)
{
    (void)state;
    char **names;
    size_t n, n_embedded = 0;
    ml_error err;
    assert_ok(ml_dir_list(MOONLIGHT_SOURCE_DIR "/web", &names, &n, &err));
    for (size_t i = 0; i < n; i++) {
        char path[ML_PATH_MAX], url[300], *text;
        size_t size;
        ml_page_file file;
        snprintf(path, sizeof path, "%s/web/%s", MOONLIGHT_SOURCE_DIR, names[i]);
        snprintf(url, sizeof url, "/%.250s", names[i]);
        assert_ok(ml_file_read(path, &text, &size, &err));
        assert_true(ml_page_find(url, &file));
        assert_int_equal(file.n_bytes, size);
        assert_memory_equal(file.data, text, size);
        assert_string_not_equal(file.content_type, "application/octet-stream");
        ml_free(text);
    }
    for (const ml_embedded_file *f = ml_web_files; f->name; f++) n_embedded++;
    assert_int_equal(n_embedded, n + 2); /* and lib/marked.js, lib/highlight.js */
    ml_dir_list_free(names, n);
}

static void test_paths(void **state)
{
    (void)state;
    ml_page_file root, index;
    assert_true(ml_page_find("/", &root));
    assert_true(ml_page_find("/index.html", &index));
    assert_ptr_equal(root.data, index.data);
    assert_string_equal(root.content_type, "text/html; charset=utf-8");
    const char *none[] = { "",         "index.html", "//",   "/.",   "/../page.c", "/web/app.js",
                           "/app.js/", "/APP.JS",    "/lib", "/lib/" };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) assert_false(ml_page_find(none[i], &root));
}

static void test_all_of_it_is_under_500_kilobytes(void **state)
{
    (void)state;
    size_t total = 0;
    for (const ml_embedded_file *f = ml_web_files; f->name; f++) total += f->n_bytes;
    assert_in_range(total, 20000, 500000);
}

/* Scripts and styles are files, and nothing makes markup of a text. */
static void test_nothing_that_the_policy_or_a_model_could_break(void **state)
{
    (void)state;
    static const char *const forbidden[] = {
        "innerHTML",  "outerHTML",       "insertAdjacentHTML", "document.write", "createContextualFragment",
        "DOMParser",  "eval(",           "new Function",       "<style",         " style=\"",
        "onclick=\"", "http://localhost"
    };
    for (const ml_embedded_file *f = ml_web_files; f->name; f++) {
        if (!strncmp(f->name, "lib/", 4)) continue;
        for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
            if (strstr((const char *)f->data, forbidden[i])) fail_msg("%s has %s", f->name, forbidden[i]);
        }
    }
    assert_null(strstr(ml_page_policy, "unsafe"));
    assert_null(strstr(ml_page_policy, "http"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_are_those_of_the_folder),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_all_of_it_is_under_500_kilobytes),
        cmocka_unit_test(test_nothing_that_the_policy_or_a_model_could_break),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Opening a model by the public API alone, from a folder that the library wrote. */
#include "moonlight.h"

#include "format/hf.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

static void write_model(const char *preset, ml_dtype dtype, const char *folder)
{
    ml_config config;
    ml_model *m;
    ml_manifest *manifest;
    assert_ok(ml_config_preset(preset, &config, &err));
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 1);
    assert_ok(ml_manifest_begin(&manifest, folder, 0, &err));
    assert_ok(ml_hf_save(m, dtype, NULL, manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
    ml_model_free(m);
}

static void test_info(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    ml_model *m;
    write_model("moonlight-tiny", ML_BF16, folder);
    assert_ok(ml_model_open(folder, &m, &err));
    ml_model_info info = ml_model_get_info(m);
    assert_string_equal(info.class_name, "DeepseekV3ForCausalLM");
    assert_int_equal(info.n_layer, 27);
    assert_int_equal(info.d_model, 16);
    assert_int_equal(info.n_vocab, 256);
    assert_int_equal(info.n_position, 256);
    assert_int_equal(info.n_expert, 64);
    assert_int_equal(info.top_k, 6);
    assert_int_equal(info.bos_id, -1);
    assert_true(info.n_params_active < info.n_params);
    ml_model_free(m);
    test_remove_folder(folder);
}

/* Forgetting and appending again gives the logits of never having seen what was forgotten. */
static void test_session(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    ml_model *m;
    ml_session *s;
    float first[256];
    const int32_t id[] = { 5, 7, 11, 200 };
    write_model("moonlight-tiny", ML_F32, folder);
    assert_ok(ml_model_open(folder, &m, &err));
    assert_ok(ml_session_make(m, 8, true, &s, &err));
    assert_null(ml_session_logits(s));
    assert_ok(ml_session_append(s, id, 2, &err));
    memcpy(first, ml_session_logits(s), sizeof first);
    assert_ok(ml_session_append(s, id + 2, 2, &err));
    assert_int_equal(ml_session_count(s), 4);
    ml_session_truncate(s, 1);
    assert_null(ml_session_logits(s));
    assert_ok(ml_session_append(s, id + 1, 1, &err));
    assert_memory_equal(first, ml_session_logits(s), sizeof first);
    assert_fails(ml_session_append(s, id, 7, &err), ML_EINVAL, "do not fit into a context of 8");
    ml_session_free(s);
    ml_model_free(m);
    test_remove_folder(folder);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    ml_model *m;
    assert_fails(ml_model_open("/no/such/model", &m, &err), ML_EINVAL, "/no/such/model");
    assert_null(m);
    assert_fails(ml_model_open(folder, &m, &err), ML_EINVAL, folder);
    assert_null(m);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_info), cmocka_unit_test(test_session),
                                        cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

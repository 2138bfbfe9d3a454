/* PyTorch checkpoints: real ones of every kind, pickles made by hand, and files that lie. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "format/pt.h"
#include "format/zip.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

typedef struct {
    uint8_t *bytes;
    size_t n, capacity;
} image;

static void put(image *im, const void *p, size_t n)
{
    assert_ok(ml_grow((void **)&im->bytes, &im->capacity, im->n + n + 1, 1, &err));
    memcpy(im->bytes + im->n, p, n);
    im->n += n;
}

static void put_number(image *im, int n_bytes, uint64_t v)
{
    uint8_t b[8];
    ml_store_u64(b, v);
    put(im, b, (size_t)n_bytes);
}

/* A zip archive of stored entries, from the description of the format (APPNOTE 4.3). */
typedef struct {
    image file, directory;
    int n;
} archive;

static void add_entry(archive *a, const char *name, const void *data, size_t n)
{
    size_t at = a->file.n, n_name = strlen(name);
    put_number(&a->file, 4, 0x04034b50);
    put_number(&a->file, 8, 20);
    put_number(&a->file, 6, 0);
    put_number(&a->file, 4, n), put_number(&a->file, 4, n);
    put_number(&a->file, 2, n_name), put_number(&a->file, 2, 3);
    put(&a->file, name, n_name), put(&a->file, "pad", 3), put(&a->file, data, n);
    put_number(&a->directory, 4, 0x02014b50);
    put_number(&a->directory, 8, 20), put_number(&a->directory, 8, 0);
    put_number(&a->directory, 4, n), put_number(&a->directory, 4, n);
    put_number(&a->directory, 2, n_name), put_number(&a->directory, 8, 0), put_number(&a->directory, 4, 0);
    put_number(&a->directory, 4, at);
    put(&a->directory, name, n_name);
    a->n++;
}

static void end_archive(archive *a, bool wide)
{
    size_t at = a->file.n, n = a->directory.n, end;
    put(&a->file, a->directory.bytes, n);
    end = a->file.n;
    if (wide) {
        put_number(&a->file, 4, 0x06064b50), put_number(&a->file, 8, 44), put_number(&a->file, 4, 0);
        put_number(&a->file, 8, 0), put_number(&a->file, 8, (uint64_t)a->n), put_number(&a->file, 8, (uint64_t)a->n);
        put_number(&a->file, 8, n), put_number(&a->file, 8, at);
        put_number(&a->file, 4, 0x07064b50), put_number(&a->file, 4, 0), put_number(&a->file, 8, end);
        put_number(&a->file, 4, 1);
    }
    put_number(&a->file, 4, 0x06054b50), put_number(&a->file, 4, 0);
    put_number(&a->file, 2, wide ? 0xffff : (uint64_t)a->n), put_number(&a->file, 2, wide ? 0xffff : (uint64_t)a->n);
    put_number(&a->file, 4, wide ? UINT32_MAX : n), put_number(&a->file, 4, wide ? UINT32_MAX : at);
    put_number(&a->file, 2, 0);
    ml_free(a->directory.bytes);
}

/* Pickle pieces. */
#define STORAGE(type, key, n) "(X\7\0\0\0storagectorch\n" type "\nX\1\0\0\0" key "X\3\0\0\0cpuK" n "tQ"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n("
#define REST                                                                                                           \
    "\x89"                                                                                                             \
    "ccollections\nOrderedDict\n)RtR"
#define KEY(length, name) "X" length "\0\0\0" name

/* {"m": {"w": 2x3, "t": its transpose, "z": complex, "s": scalar}, "step": 7, "lr": .5}, saved with all that state
 * dicts carry along. */
static const char small_pickle[] = "\x80\2}(" KEY("\1", "m") "ccollections\nOrderedDict\n)R(" KEY("\1", "w")
    TENSOR STORAGE("FloatStorage", "0", "\6") "K\0K\2K\3\x86K\3K\1\x86" REST KEY("\1", "t")
        TENSOR STORAGE("FloatStorage", "0", "\6") "K\0K\3K\2\x86K\1K\3\x86" REST KEY("\1", "z")
            TENSOR STORAGE("ComplexFloatStorage", "1", "\2") "K\0K\2\x85K\1\x85" REST KEY("\1", "s")
                TENSOR STORAGE("LongStorage", "2", "\2") "K\1))" REST "u}" KEY("\11", "_metadata") "Nsb" KEY(
                    "\4", "step") "K\7" KEY("\2", "lr") "G\x3f\xe0\0\0\0\0\0\0u.";

static image make_small(bool wide)
{
    const float weights[6] = { 1, 2, 3, 4, 5, 6 }, pairs[4] = { 1, -1, 0.5f, 2 };
    const int64_t whole[2] = { 5, -9 };
    archive a = { .n = 0 };
    add_entry(&a, "x/data.pkl", small_pickle, sizeof small_pickle - 1);
    add_entry(&a, "x/byteorder", "little", 6);
    add_entry(&a, "x/data/0", weights, sizeof weights);
    add_entry(&a, "x/data/1", pairs, sizeof pairs);
    add_entry(&a, "x/data/2", whole, sizeof whole);
    end_archive(&a, wide);
    return a.file;
}

static void test_reads_a_hand_made_file(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        image im = make_small(wide);
        ml_pt *pt;
        assert_true(ml_pt_is(im.bytes, im.n));
        assert_ok(ml_pt_open_memory(&pt, im.bytes, im.n, "image", &err));
        assert_int_equal(ml_pt_count(pt), 4);
        const ml_pt_tensor *t;
        const int64_t shape[2] = { 2, 3 }, turned[2] = { 3, 2 };
        float out[6];
        assert_ok(ml_pt_get(pt, "m.w", 2, shape, &t, &err));
        assert_ok(ml_pt_read_f32(t, 1, 1, out, &err));
        assert_true(out[0] == 4 && out[2] == 6);
        assert_fails(ml_pt_read_f32(t, 1, 2, out, &err), ML_EINVAL, "has 2 rows");
        const ml_pt_tensor *w = t;
        assert_ok(ml_pt_get(pt, "m.t", 2, turned, &t, &err));
        assert_ptr_equal(t->data, w->data);
        assert_ok(ml_pt_read_all_f32(t, out, &err));
        const float expected[6] = { 1, 4, 2, 5, 3, 6 };
        assert_memory_equal(out, expected, sizeof expected);
        assert_ok(ml_pt_read_f32(t, 2, 1, out, &err));
        assert_true(out[0] == 3 && out[1] == 6);
        assert_fails(ml_pt_read_f32(t, 2, 2, out, &err), ML_EINVAL, "has 3 rows");
        t = ml_pt_find(pt, "m.z");
        assert_true(t->is_complex && t->n_dim == 2 && t->shape[1] == 2 && t->n_element == 4);
        assert_ok(ml_pt_read_all_f32(t, out, &err));
        assert_true(out[1] == -1 && out[2] == 0.5f);
        t = ml_pt_find(pt, "m.s");
        assert_int_equal(t->n_dim, 0);
        assert_ok(ml_pt_read_all_f32(t, out, &err));
        assert_true(out[0] == -9);
        assert_fails(ml_pt_get(pt, "m.q", -1, NULL, &t, &err), ML_EFORMAT, "image: tensor m.q: is missing");
        assert_fails(ml_pt_get(pt, "m.w", 2, turned, &t, &err), ML_EFORMAT, "another shape");
        const ml_pickle *p = ml_pt_values(pt);
        ml_pickle_id id;
        assert_true(ml_pickle_get(p, ml_pickle_root(p), "step", &id) && ml_pickle_int(p, id) == 7);
        assert_true(ml_pickle_get(p, ml_pickle_root(p), "lr", &id) && ml_pickle_float(p, id) == 0.5);
        assert_false(ml_pickle_get(p, ml_pickle_root(p), "loss", &id));
        ml_pt_close(pt);
        ml_free(im.bytes);
    }
}

/* Values that Python's own pickle and zipfile modules gave for these files: the first, the last, and the sum of
 * (i + 1) * x over all elements, which double holds almost exactly. */
static const struct {
    const char *file, *name;
    ml_st_dtype dtype;
    int64_t shape[2];
    double first, last, sum;
} published[] = {
    { "bfloat16", "tensor", ML_ST_BF16, { 3, 0 }, 1.5, 3.5, 7.0 },
    { "float32", "tensor", ML_ST_F32, { 4, 0 }, 1.0, 0.0, -5.1000001430511475 },
    { "checkpoint",
      "model_state_dict.fc1.weight",
      ML_ST_F32,
      { 10, 5 },
      1.0414010286331177,
      1.080486536026001,
      -70.179352812469 },
    { "checkpoint",
      "model_state_dict.fc1.bias",
      ML_ST_F32,
      { 10, 0 },
      -0.09089037775993347,
      2.1010282039642334,
      3.3533545434474945 },
    { "checkpoint",
      "model_state_dict.fc2.weight",
      ML_ST_F32,
      { 3, 10 },
      0.17869195342063904,
      0.9808937907218933,
      63.613399907713756 },
    { "checkpoint",
      "model_state_dict.fc2.bias",
      ML_ST_F32,
      { 3, 0 },
      1.4371334314346313,
      0.4995947778224945,
      2.055794268846512 },
    { "checkpoint",
      "optimizer_state_dict.state.0.momentum_buffer",
      ML_ST_F32,
      { 10, 5 },
      0.9732940793037415,
      -0.7154958844184875,
      -124.65136347711086 },
    { "nested_dict",
      "layer1.weight",
      ML_ST_F32,
      { 2, 3 },
      0.019150810316205025,
      1.5980384349822998,
      7.576788486912847 },
    { "nested_dict",
      "layer1.bias",
      ML_ST_F32,
      { 2, 0 },
      0.11148621141910553,
      -0.03919669985771179,
      0.033092811703681946 },
    { "nested_dict", "layer2.weight", ML_ST_F32, { 4, 2 }, 1.4111539125442505, -2.475163221359253, -35.57962542772293 },
    { "nested_dict",
      "layer2.bias",
      ML_ST_F32,
      { 4, 0 },
      -0.931602954864502,
      -0.07157137989997864,
      -0.46039676666259766 },
    { "state_dict", "weight", ML_ST_F32, { 3, 4 }, 0.4679030478000641, -1.0935109853744507, -26.163676887750626 },
    { "state_dict", "bias", ML_ST_F32, { 3, 0 }, 1.1351022720336914, -3.594468832015991, -8.12981379032135 },
    { "state_dict", "running_mean", ML_ST_F32, { 3, 0 }, 0, 0, 0 },
    { "state_dict", "running_var", ML_ST_F32, { 3, 0 }, 1, 1, 6 },
    { "simple_legacy", "weight", ML_ST_F32, { 2, 3 }, -1.8129550218582153, 2.087892770767212, -0.6895508766174316 },
    { "simple_legacy", "bias", ML_ST_F32, { 2, 0 }, 1, 1, 3 },
    { "simple_legacy", "running_mean", ML_ST_F32, { 2, 0 }, 0, 0, 0 },
};

static void test_reads_published_files(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("pt/float32.pt");
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        char name[64];
        ml_pt *pt;
        const ml_pt_tensor *t;
        float values[50];
        snprintf(name, sizeof name, "pt/%s.pt", published[i].file);
        assert_ok(ml_pt_open(&pt, test_data_path(name), &err));
        int n_dim = published[i].shape[1] ? 2 : 1;
        assert_ok(ml_pt_get(pt, published[i].name, n_dim, published[i].shape, &t, &err));
        assert_int_equal(t->dtype, published[i].dtype);
        assert_ok(ml_pt_read_all_f32(t, values, &err));
        assert_true((double)values[0] == published[i].first && (double)values[t->n_element - 1] == published[i].last);
        double sum = 0;
        for (int64_t k = 0; k < t->n_element; k++) sum += (double)(k + 1) * (double)values[k];
        assert_true(fabs(sum - published[i].sum) <= 1e-12 * 1000); /* a thousand roundings of double */
        size_t n = 0;
        for (size_t k = 0; k < sizeof published / sizeof *published; k++)
            n += !strcmp(published[k].file, published[i].file);
        assert_int_equal(ml_pt_count(pt), n);
        ml_pickle_id id;
        const ml_pickle *p = ml_pt_values(pt);
        if (!strcmp(published[i].file, "checkpoint")) {
            assert_true(ml_pickle_get(p, ml_pickle_root(p), "epoch", &id) && ml_pickle_int(p, id) == 42);
            assert_true(ml_pickle_get(p, ml_pickle_root(p), "loss", &id) && ml_pickle_float(p, id) == 0.123);
        }
        ml_pt_close(pt);
    }
}

/* Protocols 2 to 5 of one value, as Python's pickle.dumps gives it:
 * {"a": [1, 300, -5, 70000, 2**40], "b": (b"xy", None, True, 1.5), "c": {2**70}}; protocol 2 without the set. */
static const char protocol_2[] =
    "\x80\2}q\0(X\1\0\0\0aq\1]q\2(K\1M\x2c\1J\xfb\xff\xff\xffJp\x11\1\0\x8a\6\0\0\0\0\0\1eX\1\0\0\0bq\3("
    "c_codecs\nencode\nq\4X\2\0\0\0xyq\5X\6\0\0\0latin1q\6\x86q\7Rq\x08N\x88G?\xf8\0\0\0\0\0\0tq\tu.";
static const char protocol_5[] =
    "\x80\5\x95\x4e\0\0\0\0\0\0\0}\x94(\x8c\1a\x94]\x94(K\1M\x2c\1J\xfb\xff\xff\xffJp\x11\1\0\x8a\6\0\0\0\0\0\1e\x8c\1b"
    "\x94(C\2xy\x94N\x88G?\xf8\0\0\0\0\0\0t\x94\x8c\1c\x94\x8f\x94(\x8a\x09\0\0\0\0\0\0\0\0@\x90u.";

static const ml_pickle_class known[] = { { "_codecs", "encode", false }, { "a.b", "C", false }, { "m", "D", true } };

static ml_status parse(const void *bytes, size_t n, ml_pickle **out)
{
    ml_bytes b = { bytes, n, 0 };
    return ml_pickle_parse(&b, known, 3, out, &err);
}

static ml_pickle_id entry(const ml_pickle *p, ml_pickle_id list, int index)
{
    ml_pickle_walk walk = ml_pickle_begin(p, list);
    ml_pickle_id id = 0;
    for (int i = 0; i <= index; i++) assert_true(ml_pickle_next(p, &walk, &id));
    return id;
}

static void test_protocols(void **state)
{
    (void)state;
    static const int64_t integers[] = { 1, 300, -5, 70000, INT64_C(1) << 40 };
    for (int k = 0; k < 2; k++) {
        ml_pickle *p;
        ml_pickle_id a, b, c;
        size_t n;
        assert_ok(k ? parse(protocol_5, sizeof protocol_5 - 1, &p) : parse(protocol_2, sizeof protocol_2 - 1, &p));
        ml_pickle_id root = ml_pickle_root(p);
        assert_int_equal(ml_pickle_size(p, root), 2 + k);
        assert_true(ml_pickle_get(p, root, "a", &a) && ml_pickle_size(p, a) == 5);
        for (int i = 0; i < 5; i++) assert_int_equal(ml_pickle_int(p, entry(p, a, i)), integers[i]);
        assert_true(ml_pickle_get(p, root, "b", &b) && ml_pickle_kind_of(p, b) == ML_PICKLE_TUPLE);
        assert_int_equal(ml_pickle_kind_of(p, entry(p, b, 0)), k ? ML_PICKLE_BYTES : ML_PICKLE_CALL);
        assert_int_equal(ml_pickle_kind_of(p, entry(p, b, 1)), ML_PICKLE_NONE);
        assert_int_equal(ml_pickle_int(p, entry(p, b, 2)), 1);
        assert_true(ml_pickle_float(p, entry(p, b, 3)) == 1.5);
        if (k) {
            assert_true(ml_pickle_get(p, root, "c", &c) && ml_pickle_size(p, c) == 1);
            assert_int_equal(ml_pickle_kind_of(p, entry(p, c, 0)), ML_PICKLE_BIG);
            const char *big = ml_pickle_bytes(p, entry(p, c, 0), &n);
            assert_true(n == 9 && big[8] == 0x40);
        }
        ml_pickle_free(p);
    }
}

static void expect_pickle_refusal(const void *bytes, size_t n, const char *part)
{
    ml_pickle *p;
    assert_fails(parse(bytes, n, &p), ML_EFORMAT, part);
    assert_null(p);
}

#define REFUSE(pickle, part) expect_pickle_refusal(pickle, sizeof(pickle) - 1, part)

static void test_refuses_code(void **state)
{
    (void)state;
    REFUSE("\x80\2cposix\nsystem\nX\4\0\0\0ls -\x85R.", "offset 2: asks for code: posix.system");
    REFUSE("\x80\4\x8c\x08"
           "builtins\x8c\4eval\x93.",
           "asks for code: builtins.eval");
    REFUSE("\x80\2c__builtin__\ngetattr\n.", "asks for code: __builtin__.getattr");
    REFUSE("\x80\2}(K\1c_codecs\nencode2\nu.", "asks for code: _codecs.encode2");
    REFUSE("(ios\nsystem\n.", "asks for code, by an opcode");
    REFUSE("\x80\2\x82\1.", "asks for code, by an opcode");
    REFUSE("\x80\2})R.", "asks for code: calls what is no class");
    REFUSE("\x80\2ca.b\nC\nK\1R.", "without a tuple of arguments");
    REFUSE("\x80\2K\1K\2b.", "gives a state to what is no object");
    REFUSE("\x80\2.", "offset 2: takes a value off an empty stack");
    REFUSE("\x80\2K\1", "offset 4: expected 1 more bytes");
    REFUSE("\x80\1K\1.", "expected protocol 2 to 5");
    REFUSE("\x80\2S'a'\n.", "opcode 0x53 is none");
    REFUSE("\x80\2K\1}K\1s.", "fills an integer, expected a dict");
    REFUSE("\x80\2}(K\1u.", "a key without a value");
    REFUSE("\x80\2}K\1a.", "fills a dict, expected a list");
    REFUSE("\x80\2h\0.", "recalls a value");
    REFUSE("\x80\2t.", "needs a mark");
    REFUSE("\x80\2(\x85.", "takes more values off the stack");
    REFUSE("\x80\2Nr\xff\xff\xff\xff.", "remembers more than a million values");
    REFUSE("\x80\2cabc", "a name without an end");
    REFUSE("\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "more than 4 GiB");
    REFUSE("\x80\2X\xff\xff\xff\xff"
           "abc.",
           "expected 4294967295 more bytes, found 4");
}

/* Small programs that want much memory or time, or that never end for who walks them. */
static void expect_bomb(const char *head, char op, size_t n, const char *tail, const char *part)
{
    image im = { 0 };
    put(&im, head, strlen(head));
    for (size_t i = 0; i < n; i++) put(&im, &op, 1);
    put(&im, tail, strlen(tail));
    ml_alloc_stats before = ml_alloc_get_stats();
    ml_pickle *p;
    ml_status status = parse(im.bytes, im.n, &p);
    if (part) {
        assert_int_equal(status, ML_EFORMAT);
        if (!strstr(err.message, part)) fail_msg("message \"%s\" lacks \"%s\"", err.message, part);
    } else {
        assert_int_equal(status, ML_OK);
        assert_true(ml_alloc_get_stats().live_bytes - before.live_bytes < (int64_t)64 << 20);
    }
    ml_pickle_free(p);
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
    ml_free(im.bytes);
}

static void test_bounds_bombs(void **state)
{
    (void)state;
    expect_bomb("\x80\2", '}', 3 << 20, ".", "has more than 524,288 values");
    expect_bomb("\x80\2", 'N', 3 << 20, ".", "grows beyond a million values");
    expect_bomb("\x80\2}", '2', 3 << 20, ".", "grows beyond a million values");
    expect_bomb("\x80\2", '(', 3 << 20, "t.", "nests deeper than 65,536 marks");
    expect_bomb("\x80\2N", '\x85', 3 << 20, ".", "has more than 524,288 values");
    expect_bomb("\x80\2N", '\x85', 1 << 18, ".", NULL); /* a tuple in a tuple in ..., a quarter of a million deep */
    expect_bomb("\x80\2N", '\x94', 3 << 20, ".", "remembers more than a million values");
}

/* A zip file whose pickle is this, with one storage of 24 bytes under key 0. */
static ml_status open_pickle(const char *pickle, size_t n, ml_pt **pt)
{
    const float weights[6] = { 1, 2, 3, 4, 5, 6 };
    archive a = { .n = 0 };
    add_entry(&a, "x/data.pkl", pickle, n);
    add_entry(&a, "x/data/0", weights, sizeof weights);
    end_archive(&a, false);
    ml_status status = ml_pt_open_memory(pt, a.file.bytes, a.file.n, "lie", &err);
    ml_free(a.file.bytes);
    return status;
}

static void expect_refusal(const char *pickle, size_t n, const char *part)
{
    ml_pt *pt;
    assert_fails(open_pickle(pickle, n, &pt), ML_EFORMAT, part);
    if (strncmp(err.message, "lie: ", 5)) fail_msg("message \"%s\" does not name the file", err.message);
    assert_null(pt);
}

#define REFUSE_PT(pickle, part) expect_refusal(pickle, sizeof(pickle) - 1, part)
#define FLOATS STORAGE("FloatStorage", "0", "\6")

static void test_refuses_lies(void **state)
{
    (void)state;
    REFUSE_PT("\x80\2cos\nsystem\n.", "lie: entry x/data.pkl: pickle, offset 2: asks for code: os.system");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0K\2K\4\x86K\4K\1\x86" REST ".",
              "tensor 0 of the pickle: has elements outside");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\1K\6\x85K\1\x85" REST ".", "has elements outside");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0K\7\x85K\0\x85" REST ".", "or more than that");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\2\x86K\1K\1\x86" REST ".",
              "has elements outside");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0K\2K\2\x86\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\1\x86" REST ".",
              "has elements outside");
    REFUSE_PT("\x80\2" TENSOR FLOATS "J\xff\xff\xff\xffK\2\x85K\1\x85" REST ".", "expected a storage, an offset");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0J\xff\xff\xff\xff\x85K\1\x85" REST ".", "size: entry 0 is no whole number");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0K\2\x85K\2K\1\x86" REST ".", "has 1 sizes but 2 strides");
    REFUSE_PT("\x80\2" TENSOR FLOATS "K\0(K\1K\1K\1K\1K\1K\1K\1K\1t)" REST ".", "size: expected a tuple of at most 7");
    REFUSE_PT("\x80\2" TENSOR "NK\0K\2\x85K\1\x85" REST ".", "expected a storage, an offset");
    REFUSE_PT("\x80\2" TENSOR STORAGE("FloatStorage", "0", "\7") "K\0K\2\x85K\1\x85" REST ".",
              "storage 0: expected 7 elements of 4 bytes, found 24");
    REFUSE_PT("\x80\2" TENSOR STORAGE("FloatStorage", "1", "\6") "K\0K\2\x85K\1\x85" REST ".",
              "storage x/data/1: is not in the archive");
    REFUSE_PT("\x80\2" TENSOR "NQK\0K\2\x85K\1\x85" REST ".", "expected storages as");
    REFUSE_PT("\x80\2]q\0h\0a.", "lie deeper than 32"); /* a list in itself */
    REFUSE_PT("\x80\2]q\0(h\0h\0h\0h\0e.", "lie deeper than 32");
    /* Sixteen lists, each of four times the one before: 4^16 ways to the innermost. */
    image im = { 0 };
    put(&im, "\x80\2]", 3);
    for (int i = 0; i < 16; i++) put(&im, "(2222l", 6);
    put(&im, ".", 1);
    ml_pt *pt;
    ml_status status = open_pickle((const char *)im.bytes, im.n, &pt);
    assert_true(status == ML_EFORMAT || status == ML_OK);
    ml_pt_close(pt);
    im.n = 0;
    put(&im, "\x80\2]q\0", 5);
    for (int i = 0; i < 16; i++) put(&im, "0](h\0h\0h\0h\0eq\0", 14);
    put(&im, ".", 1);
    assert_fails(open_pickle((const char *)im.bytes, im.n, &pt), ML_EFORMAT, "lead to more than 262144 values");
    ml_free(im.bytes);

    archive a = { .n = 0 };
    add_entry(&a, "x/data.pkl", "\x80\2N.", 4), add_entry(&a, "x/byteorder", "big", 3), end_archive(&a, false);
    assert_fails(ml_pt_open_memory(&pt, a.file.bytes, a.file.n, "lie", &err), ML_EFORMAT,
                 "expected \"little\", found \"big\"");
    ml_free(a.file.bytes), a = (archive){ .n = 0 };
    add_entry(&a, "x/data.pkl", "\x80\2N.", 4), add_entry(&a, "x/constants.pkl", "", 0), end_archive(&a, false);
    assert_fails(ml_pt_open_memory(&pt, a.file.bytes, a.file.n, "lie", &err), ML_EFORMAT, "is a TorchScript program");
    ml_free(a.file.bytes), a = (archive){ .n = 0 };
    add_entry(&a, "readme", "", 0), end_archive(&a, false);
    assert_fails(ml_pt_open_memory(&pt, a.file.bytes, a.file.n, "lie", &err), ML_EFORMAT, "without <name>/data.pkl");
    ml_free(a.file.bytes), a = (archive){ .n = 0 };
    add_entry(&a, "x/data.pkl", "\x80\2N.", 4), add_entry(&a, "x/data.pkl", "", 0), end_archive(&a, false);
    assert_fails(ml_pt_open_memory(&pt, a.file.bytes, a.file.n, "lie", &err), ML_EFORMAT,
                 "entry x/data.pkl: is there twice");
    ml_free(a.file.bytes);
    assert_fails(ml_pt_open_memory(&pt, "GGUF", 4, "lie", &err), ML_EFORMAT, "expected a file of torch.save");
    assert_fails(ml_pt_open(&pt, "/nonexistent/x.pt", &err), ML_EIO, "No such file");
}

/* The same tensors as the format before zip wrote them. */
static image make_legacy(void)
{
    image im = { 0 };
    const float weights[6] = { 1, 2, 3, 4, 5, 6 };
    static const char front[] = "\x80\2\x8a\nl\xfc\x9c"
                                "F\xf9 j\xa8P\x19.\x80\2M\xe9\3.\x80\2}" KEY("\15", "little_endian") "\x88s.";
    static const char object[] = "\x80\2}(" KEY("\1", "w")
        TENSOR STORAGE("FloatStorage", "0", "\6") "K\0K\2K\3\x86K\3K\1\x86" REST KEY("\1", "b")
            TENSOR STORAGE("HalfStorage", "1", "\1") "K\0K\1\x85K\1\x85" REST "u.\x80\2](X\1\0\0\0"
                                                     "1X\1\0\0\0"
                                                     "0e.";
    put(&im, front, sizeof front - 1);
    put(&im, object, sizeof object - 1);
    put_number(&im, 8, 1), put_number(&im, 2, 0x3c00);
    put_number(&im, 8, 6), put(&im, weights, sizeof weights);
    return im;
}

/* Open bytes in a block of exactly their size, so that a sanitizer sees every byte read beyond it, and read all of what
 * opens. Whether it opened. */
static bool try_bytes(const uint8_t *bytes, size_t n)
{
    ml_pt *pt;
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    ml_status status = ml_pt_open_memory(&pt, copy, n, "bytes", &err);
    for (size_t i = 0; status == ML_OK && i < ml_pt_count(pt); i++) {
        float values[64];
        assert_true(ml_pt_at(pt, i)->n_element <= 64);
        assert_ptr_equal(ml_pt_find(pt, ml_pt_at(pt, i)->name), ml_pt_at(pt, i));
        assert_ok(ml_pt_read_all_f32(ml_pt_at(pt, i), values, &err));
    }
    if (status != ML_OK) {
        assert_int_equal(status, ML_EFORMAT);
        assert_true(strlen(err.message) > 8);
    }
    ml_pt_close(pt);
    free(copy);
    return status == ML_OK;
}

static void check_damage(const image *im)
{
    ml_alloc_stats before = ml_alloc_get_stats();
    for (size_t n = 0; n < im->n; n++) assert_false(try_bytes(im->bytes, n));
    assert_true(try_bytes(im->bytes, im->n));
    for (size_t i = 0; i < im->n; i++) {
        uint8_t old = im->bytes[i];
        const uint8_t changes[4] = { 0, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int j = 0; j < 4; j++) {
            im->bytes[i] = changes[j];
            (void)try_bytes(im->bytes, im->n);
        }
        im->bytes[i] = old;
    }
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
}

static void test_survives_damage(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        image im = k < 2 ? make_small(k) : make_legacy();
        check_damage(&im);
        ml_free(im.bytes);
    }
    SKIP_WITHOUT_DATA("pt/simple_legacy.pt");
    static const char *const files[] = { "pt/simple_legacy.pt", "pt/float32.pt" };
    for (int k = 0; k < 2; k++) {
        char *bytes;
        image im = { 0 };
        assert_ok(ml_file_read(test_data_path(files[k]), &bytes, &im.n, &err));
        im.bytes = (uint8_t *)bytes;
        check_damage(&im);
        ml_free(bytes);
    }
}

static void test_survives_lack_of_memory(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        image im = k ? make_small(false) : make_legacy();
        ml_alloc_stats before = ml_alloc_get_stats();
        ml_status status = ML_ENOMEM;
        int64_t n = 0;
        for (; status != ML_OK && n < 1000; n++) {
            ml_pt *pt;
            ml_alloc_fail_after(n);
            status = ml_pt_open_memory(&pt, im.bytes, im.n, "image", &err);
            ml_alloc_fail_after(-1);
            assert_true(status == ML_OK || status == ML_ENOMEM);
            ml_pt_close(pt);
        }
        assert_true(n > 10 && status == ML_OK);
        assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
        ml_free(im.bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_hand_made_file),
        cmocka_unit_test(test_reads_published_files),
        cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_refuses_code),
        cmocka_unit_test(test_bounds_bombs),
        cmocka_unit_test(test_refuses_lies),
        cmocka_unit_test(test_survives_damage),
        cmocka_unit_test(test_survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("pt", tests, NULL, NULL);
}

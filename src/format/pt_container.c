/* The two containers of torch.save: the zip archive, and the row of pickles and storages from before it. */
#include "base/alloc.h"
#include "format/pt_internal.h"

#include <string.h>

enum { LEGACY_VERSION = 1001 };
static const uint8_t legacy_magic[] = { 0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                        0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e };
bool ml_pt_is(const void *data, size_t n_bytes)
{
    if (n_bytes >= 4 && !memcmp(data, "PK\3\4", 4)) return true;
    return n_bytes >= sizeof legacy_magic && !memcmp(data, legacy_magic, sizeof legacy_magic);
}

/* The folder of data.pkl, which is the first entry of that name. */
static ml_status find_folder(ml_pt *pt, const ml_zip_entry **data, ml_error *err)
{
    static const char name[] = "data.pkl";
    for (size_t i = 0; i < pt->zip.n; i++) {
        const ml_zip_entry *e = &pt->zip.entries[i];
        const char *slash = strchr(e->name, '/');
        if (!slash || strcmp(slash + 1, name)) continue;
        pt->folder = ml_strdup(e->name);
        if (!pt->folder) return ml_fail_memory(err, strlen(e->name), "a name");
        pt->folder[slash + 1 - e->name] = 0;
        *data = e;
        return ML_OK;
    }
    return ml_fail(err, ML_EFORMAT, "is a zip archive without <name>/data.pkl: no checkpoint of torch.save");
}

static const ml_zip_entry *find_beside(const ml_pt *pt, const char *file)
{
    char name[ML_ZIP_MAX_NAME + 32];
    snprintf(name, sizeof name, "%s%s", pt->folder, file);
    return ml_zip_find(&pt->zip, name);
}

static ml_status open_zip(ml_pt *pt, ml_bytes file, ml_error *err)
{
    const ml_zip_entry *data = NULL;
    ML_TRY(ml_zip_open(&pt->zip, file.data, file.size, err));
    ML_TRY(find_folder(pt, &data, err));
    const ml_zip_entry *order = find_beside(pt, "byteorder");
    if (order && (order->n_bytes != 6 || memcmp(order->data, "little", 6))) {
        return ml_fail(err, ML_EFORMAT, "entry byteorder: expected \"little\", found \"%.*s\"",
                       (int)(order->n_bytes < 20 ? order->n_bytes : 20), (const char *)order->data);
    }
    if (find_beside(pt, "constants.pkl")) {
        return ml_fail(err, ML_EFORMAT, "asks for code: is a TorchScript program, expected a checkpoint of torch.save");
    }
    ml_bytes pickle = { data->data, data->n_bytes, 0 };
    if (ml_pt_parse(&pickle, &pt->values, err) != ML_OK) {
        return ml_fail_prefix(err, "entry %.160s", data->name);
    }
    return ML_OK;
}

/* Version and system of a file from before zip. */
static ml_status check_system(ml_bytes *file, ml_error *err)
{
    ml_pickle *p;
    ml_pickle_id id;
    ML_TRY(ml_pt_parse(file, &p, err));
    id = ml_pickle_root(p);
    bool right = ml_pickle_kind_of(p, id) == ML_PICKLE_INT && ml_pickle_int(p, id) == LEGACY_VERSION;
    ml_pickle_free(p);
    if (!right) return ml_fail(err, ML_EFORMAT, "expected version %d of the format", LEGACY_VERSION);
    ML_TRY(ml_pt_parse(file, &p, err));
    right = ml_pickle_get(p, ml_pickle_root(p), "little_endian", &id) && ml_pickle_kind_of(p, id) == ML_PICKLE_BOOL &&
            ml_pickle_int(p, id);
    ml_pickle_free(p);
    return right ? ML_OK : ml_fail(err, ML_EFORMAT, "key little_endian: expected true: it is from another machine");
}

/* Note every storage that the pickle names: its key, and the size of its elements as n_bytes until it is found. */
static ml_status list_storages(ml_pt *pt, ml_error *err)
{
    size_t n = 0, used = 0, count = ml_pickle_count(pt->values), n_chars = 0;
    ml_pt_storage_id id;
    for (size_t i = 0; i < count; i++) {
        if (ml_pickle_kind_of(pt->values, (ml_pickle_id)i) != ML_PICKLE_PERSISTENT) continue;
        ML_TRY(ml_pt_read_storage_id(pt, (ml_pickle_id)i, &id, err));
        n_chars += strlen(id.key) + 1;
        n++;
    }
    if (n_chars > (size_t)16 << 20) return ml_fail(err, ML_EFORMAT, "the keys of its storages have more than 16 MiB");
    pt->keys = ml_alloc(n_chars + 1);
    pt->storages = ml_calloc(n + 1, sizeof *pt->storages);
    if (!pt->keys || !pt->storages) return ml_fail_memory(err, n_chars, "the storages of a checkpoint");
    for (size_t i = 0; i < count; i++) {
        bool added;
        if (ml_pickle_kind_of(pt->values, (ml_pickle_id)i) != ML_PICKLE_PERSISTENT) continue;
        ML_TRY(ml_pt_read_storage_id(pt, (ml_pickle_id)i, &id, err));
        char *key = pt->keys + used;
        strcpy(key, id.key);
        used += strlen(key) + 1;
        ML_TRY(ml_name_table_add(&pt->storage_keys, key, &added, err));
        if (!added) continue;
        pt->storages[pt->storage_keys.n - 1].n_bytes = ml_pt_class_bytes(id.class);
    }
    return ML_OK;
}

/* One storage of the file: u64 count and the elements. */
static ml_status read_storage(ml_pt *pt, const ml_pickle *keys, ml_pickle_id id, ml_bytes *file, ml_error *err)
{
    uint64_t n;
    size_t index, n_key, n_bytes, at = file->at;
    char key[ML_PT_MAX_NAME + 1] = "";
    if (ml_pickle_kind_of(keys, id) == ML_PICKLE_TEXT) {
        const char *text = ml_pickle_bytes(keys, id, &n_key);
        if (n_key <= ML_PT_MAX_NAME) memcpy(key, text, n_key);
    }
    if (!ml_name_table_find(&pt->storage_keys, key, &index) || pt->storages[index].data) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: storage \"%.100s\": no tensor names it, or it is there twice", at,
                       key);
    }
    ml_pt_storage *s = &pt->storages[index];
    ML_TRY(ml_bytes_u64(file, &n, err));
    if (n > SIZE_MAX / 16 || !ml_size_mul((size_t)n, s->n_bytes, &n_bytes)) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: storage \"%.100s\": %llu elements", at, key,
                       (unsigned long long)n);
    }
    s->n_bytes = n_bytes;
    return ml_bytes_take(file, n_bytes, &s->data, err);
}

static ml_status read_storages(ml_pt *pt, ml_bytes *file, ml_error *err)
{
    ml_pickle *keys;
    ML_TRY(ml_pt_parse(file, &keys, err));
    ml_pickle_id root = ml_pickle_root(keys), id;
    ml_status status = ML_OK;
    if (ml_pickle_kind_of(keys, root) != ML_PICKLE_LIST) {
        status = ml_fail(err, ML_EFORMAT, "expected a list of the keys of storages, found %s",
                         ml_pickle_kind_name(ml_pickle_kind_of(keys, root)));
    } else {
        ml_pickle_walk walk = ml_pickle_begin(keys, root);
        while (status == ML_OK && ml_pickle_next(keys, &walk, &id)) status = read_storage(pt, keys, id, file, err);
    }
    ml_pickle_free(keys);
    return status;
}

static ml_status open_legacy(ml_pt *pt, ml_bytes file, ml_error *err)
{
    file.at = sizeof legacy_magic;
    ML_TRY(check_system(&file, err));
    ML_TRY(ml_pt_parse(&file, &pt->values, err));
    ML_TRY(list_storages(pt, err));
    ML_TRY(read_storages(pt, &file, err));
    return ML_OK;
}

ml_status ml_pt_read_container(ml_pt *pt, const uint8_t *data, size_t n_bytes, ml_error *err)
{
    ml_bytes file = { data, n_bytes, 0 };
    if (!ml_pt_is(data, n_bytes)) {
        return ml_fail(err, ML_EFORMAT,
                       "offset 0: expected a file of torch.save: a zip archive, or the magic number "
                       "of the format before");
    }
    return data[0] == 'P' ? open_zip(pt, file, err) : open_legacy(pt, file, err);
}

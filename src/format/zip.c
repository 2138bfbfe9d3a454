#include "format/zip.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <string.h>

enum {
    END_BYTES = 22,
    END_SIGNATURE = 0x06054b50,
    LOCATOR_BYTES = 20,
    LOCATOR_SIGNATURE = 0x07064b50,
    END64_BYTES = 56,
    END64_SIGNATURE = 0x06064b50,
    ENTRY_BYTES = 46,
    ENTRY_SIGNATURE = 0x02014b50,
    LOCAL_BYTES = 30,
    LOCAL_SIGNATURE = 0x04034b50,
};

static uint32_t load_u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static ml_status fail_at(size_t at, const char *what, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "zip, offset %zu: %s: the file is cut short or damaged", at, what);
}

/* Where the directory stands. */
typedef struct {
    uint64_t n, at, n_bytes;
} directory;

/* The end record is the last thing in the file, but for a comment whose length it gives. */
static ml_status find_end(const uint8_t *data, size_t n, size_t *end, ml_error *err)
{
    size_t least = n > END_BYTES + 65535 ? n - END_BYTES - 65535 : 0;
    for (size_t at = n >= END_BYTES ? n - END_BYTES + 1 : 0; at-- > least;) {
        if (ml_load_u32(data + at) != END_SIGNATURE) continue;
        if (load_u16(data + at + 20) != n - at - END_BYTES) continue;
        *end = at;
        return ML_OK;
    }
    return fail_at(n, "expected the directory of a zip archive at the end, found none", err);
}

static ml_status read_end64(const uint8_t *data, size_t end, directory *d, ml_error *err)
{
    if (end < LOCATOR_BYTES || ml_load_u32(data + end - LOCATOR_BYTES) != LOCATOR_SIGNATURE) {
        return fail_at(end, "expected the locator of a 64-bit directory", err);
    }
    uint64_t at = ml_load_u64(data + end - LOCATOR_BYTES + 8);
    if (at > end || end - at < END64_BYTES || ml_load_u32(data + at) != END64_SIGNATURE) {
        return fail_at(end - LOCATOR_BYTES, "its 64-bit directory is not where it says", err);
    }
    *d = (directory){ ml_load_u64(data + at + 32), ml_load_u64(data + at + 48), ml_load_u64(data + at + 40) };
    return ML_OK;
}

static ml_status find_directory(const uint8_t *data, size_t n, directory *d, ml_error *err)
{
    size_t end;
    ML_TRY(find_end(data, n, &end, err));
    *d = (directory){ load_u16(data + end + 10), ml_load_u32(data + end + 16), ml_load_u32(data + end + 12) };
    if (d->n == 0xffff || d->at == UINT32_MAX || d->n_bytes == UINT32_MAX) ML_TRY(read_end64(data, end, d, err));
    if (d->at > end || d->n_bytes > end - d->at) return fail_at(end, "its directory lies outside the file", err);
    if (d->n > ML_ZIP_MAX_ENTRIES || d->n * ENTRY_BYTES > d->n_bytes) {
        return fail_at(end, "has more entries than its directory can hold", err);
    }
    return ML_OK;
}

/* Sizes and place of an entry, from the extra field where 32 bits are not enough. */
static ml_status read_wide(const uint8_t *extra, size_t n, uint64_t *size, uint64_t *stored, uint64_t *at,
                           size_t offset, ml_error *err)
{
    uint64_t *fields[3] = { size, stored, at };
    if (*size != UINT32_MAX && *stored != UINT32_MAX && *at != UINT32_MAX) return ML_OK;
    for (size_t i = 0; n - i >= 4;) {
        size_t length = load_u16(extra + i + 2), k = i + 4;
        if (length > n - k) break;
        if (load_u16(extra + i) == 1) {
            for (int f = 0; f < 3; f++) {
                if (*fields[f] != UINT32_MAX) continue;
                if (i + 4 + length - k < 8) return fail_at(offset, "an entry lacks its 64-bit size", err);
                *fields[f] = ml_load_u64(extra + k);
                k += 8;
            }
            return ML_OK;
        }
        i = k + length;
    }
    return fail_at(offset, "an entry lacks its 64-bit sizes", err);
}

/* The data behind the entry's own header, which repeats the name. */
static ml_status find_data(const uint8_t *data, size_t end, uint64_t at, ml_zip_entry *e, ml_error *err)
{
    size_t n_name = strlen(e->name);
    if (at > end || end - at < LOCAL_BYTES || ml_load_u32(data + at) != LOCAL_SIGNATURE) {
        return ml_fail(err, ML_EFORMAT, "zip, entry %.160s: its header is not at offset %llu", e->name,
                       (unsigned long long)at);
    }
    size_t named = load_u16(data + at + 26), extra = load_u16(data + at + 28), left = end - (size_t)at - LOCAL_BYTES;
    if (named > left || named != n_name || memcmp(data + at + LOCAL_BYTES, e->name, n_name)) {
        return ml_fail(err, ML_EFORMAT, "zip, entry %.160s: offset %llu has the header of another", e->name,
                       (unsigned long long)at);
    }
    left -= named;
    if (extra > left || e->n_bytes > left - extra) {
        return ml_fail(err, ML_EFORMAT,
                       "zip, entry %.160s: its %zu bytes at offset %llu leave the file: it was cut short", e->name,
                       e->n_bytes, (unsigned long long)at);
    }
    e->data = data + at + LOCAL_BYTES + named + extra;
    return ML_OK;
}

/* One entry of the directory; names are copied to *names, which moves on. */
static ml_status read_entry(ml_zip *z, ml_bytes *b, char **names, ml_error *err)
{
    const uint8_t *p, *name, *extra, *comment;
    size_t offset = b->at;
    ML_TRY(ml_bytes_take(b, ENTRY_BYTES, &p, err));
    if (ml_load_u32(p) != ENTRY_SIGNATURE) return fail_at(offset, "expected an entry of the directory", err);
    size_t n_name = load_u16(p + 28), n_extra = load_u16(p + 30), n_comment = load_u16(p + 32);
    uint32_t flags = load_u16(p + 8), method = load_u16(p + 10);
    uint64_t stored = ml_load_u32(p + 20), size = ml_load_u32(p + 24), at = ml_load_u32(p + 42);
    ML_TRY(ml_bytes_take(b, n_name, &name, err));
    ML_TRY(ml_bytes_take(b, n_extra, &extra, err));
    ML_TRY(ml_bytes_take(b, n_comment, &comment, err));
    if (!n_name || n_name > ML_ZIP_MAX_NAME || memchr(name, 0, n_name)) {
        return fail_at(offset, "an entry's name is empty, too long or has a 0 in it", err);
    }
    memcpy(*names, name, n_name);
    (*names)[n_name] = 0;
    ml_zip_entry *e = &z->entries[z->n];
    *e = (ml_zip_entry){ .name = *names };
    *names += n_name + 1;
    ML_TRY(read_wide(extra, n_extra, &size, &stored, &at, offset, err));
    if (method || flags & 1 || stored != size) {
        return ml_fail(err, ML_EFORMAT, "zip, entry %.160s: is compressed or encrypted, expected one that is stored",
                       e->name);
    }
    if (size > b->size) return fail_at(offset, "an entry is larger than the file", err);
    e->n_bytes = (size_t)size;
    ML_TRY(find_data(b->data, b->size, at, e, err));
    bool added;
    ML_TRY(ml_name_table_add(&z->table, e->name, &added, err));
    if (!added) return ml_fail(err, ML_EFORMAT, "zip, offset %zu: entry %.160s: is there twice", offset, e->name);
    z->n++;
    return ML_OK;
}

ml_status ml_zip_open(ml_zip *z, const uint8_t *data, size_t n_bytes, ml_error *err)
{
    directory d;
    ML_TRY(find_directory(data, n_bytes, &d, err));
    z->entries = ml_calloc((size_t)d.n, sizeof *z->entries);
    z->names = ml_alloc((size_t)d.n_bytes + 1); // an entry takes more than its name and a 0
    if (!z->entries || !z->names) return ml_fail_memory(err, (size_t)d.n_bytes, "the directory of a zip archive");
    ml_bytes b = { data, (size_t)(d.at + d.n_bytes), (size_t)d.at };
    char *names = z->names;
    for (uint64_t i = 0; i < d.n; i++) ML_TRY(read_entry(z, &b, &names, err));
    return ML_OK;
}

void ml_zip_close(ml_zip *z)
{
    ml_free(z->entries);
    ml_free(z->names);
    ml_name_table_free(&z->table);
    *z = (ml_zip){ 0 };
}

const ml_zip_entry *ml_zip_find(const ml_zip *z, const char *name)
{
    size_t index;
    return ml_name_table_find(&z->table, name, &index) ? &z->entries[index] : NULL;
}

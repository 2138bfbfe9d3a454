#include "cli/svg_to_png.h"

#include "base/file.h"

#include <cairo.h>
#include <librsvg/rsvg.h>
#include <math.h>

static const double SCALE = 2;

static cairo_status_t take_bytes(void *arg, const unsigned char *data, unsigned int n)
{
    return fwrite(data, 1, n, arg) == n ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static ml_status write_surface(cairo_surface_t *surface, const char *path, ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    cairo_status_t status = cairo_surface_write_to_png_stream(surface, take_bytes, w.file);
    if (status == CAIRO_STATUS_SUCCESS) return ml_file_commit(&w, err);
    ml_file_abandon(&w);
    return ml_fail(err, ML_EIO, "%s: could not be written: %s", path, cairo_status_to_string(status));
}

static ml_status draw(RsvgHandle *handle, const char *path, ml_error *err)
{
    double width, height;
    GError *why = NULL;
    if (!rsvg_handle_get_intrinsic_size_in_pixels(handle, &width, &height)) {
        return ml_fail(err, ML_EINVAL, "%s: the figure has no size in pixels", path);
    }
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)ceil(SCALE * width), (int)ceil(SCALE * height));
    cairo_t *cairo = cairo_create(surface);
    cairo_scale(cairo, SCALE, SCALE);
    RsvgRectangle page = { 0, 0, width, height };
    ml_status status = ML_OK;
    if (!rsvg_handle_render_document(handle, cairo, &page, &why)) {
        status = ml_fail(err, ML_EINVAL, "%s: the figure could not be drawn: %s", path, why->message);
        g_error_free(why);
    }
    if (status == ML_OK) status = write_surface(surface, path, err);
    cairo_destroy(cairo);
    cairo_surface_destroy(surface);
    return status;
}

ml_status ml_cli_svg_to_png(const char *svg, size_t n_bytes, const char *path, ml_error *err)
{
    GError *why = NULL;
    RsvgHandle *handle = rsvg_handle_new_from_data((const guint8 *)svg, n_bytes, &why);
    if (!handle) {
        ml_fail(err, ML_EINVAL, "%s: the figure could not be read: %s", path, why->message);
        g_error_free(why);
        return ML_EINVAL;
    }
    ml_status status = draw(handle, path, err);
    g_object_unref(handle);
    return status;
}

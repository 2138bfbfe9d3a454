#include "report/report.h"

#include "base/alloc.h"
#include "report/page.h"

#include <stdlib.h>

/* One figure as SVG, and as PNG made of it. */
static ml_status export_figure(const ml_report_figure *figure, const ml_report_export *export, ml_error *err)
{
    char path[ML_PATH_MAX], name[80], *svg = NULL;
    size_t n_bytes;
    FILE *out = open_memstream(&svg, &n_bytes);
    if (!out) return ml_fail_memory(err, 0, "a figure");
    ml_report_figure_write(figure, false, out);
    ml_status status = fclose(out) == 0 ? ML_OK : ml_fail_memory(err, n_bytes, "a figure");
    snprintf(name, sizeof name, "%s.svg", figure->name);
    if (status == ML_OK) status = ml_path_join(path, export->folder, name, err);
    if (status == ML_OK) status = ml_file_replace(path, svg, n_bytes, err);
    snprintf(name, sizeof name, "%s.png", figure->name);
    if (status == ML_OK) status = ml_path_join(path, export->folder, name, err);
    if (status == ML_OK) status = export->write_png(svg, n_bytes, path, err);
    free(svg); /* the C library's */
    return status;
}

static ml_status export_figures(const ml_report_figures *figures, const ml_report_export *export, ml_error *err)
{
    if (!export->folder) return ML_OK;
    ML_TRY(ml_dir_make(export->folder, err));
    for (size_t i = 0; i < figures->n; i++) ML_TRY(export_figure(&figures->item[i], export, err));
    return ML_OK;
}

static ml_status write_page(const ml_report *report, const ml_report_figures *figures, const char *path, ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    ml_report_write_page(report, figures, w.file);
    if (!ferror(w.file)) return ml_file_commit(&w, err);
    ml_fail_errno(err, "%s: could not be written", path);
    ml_file_abandon(&w);
    return ML_EIO;
}

ml_status ml_report_write(const ml_report *report, const char *path, const ml_report_export *export, size_t *n_figure,
                          ml_error *err)
{
    ml_report_figures figures;
    ML_TRY(ml_report_figures_make(report, &figures, err));
    ml_status status = export_figures(&figures, export, err);
    if (status == ML_OK) status = write_page(report, &figures, path, err);
    if (n_figure) *n_figure = figures.n;
    ml_report_figures_free(&figures);
    return status;
}

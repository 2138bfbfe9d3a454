# cmake -DOUT=files.c -DTABLE=ml_x_files -DFOLDER=x -DFILES="a.css;b/c.js" -P embed_files.cmake: files as bytes in the
# program.  A file is named by its path within the folder, or, as NAME=PATH, lies elsewhere.
set(arrays "")
set(rows "")
set(n 0)
list(SORT FILES)
foreach(file IN LISTS FILES)
  if(file MATCHES "^([^=]+)=(.+)$")
    set(name "${CMAKE_MATCH_1}")
    set(path "${CMAKE_MATCH_2}")
  else()
    set(name "${file}")
    set(path "${FOLDER}/${file}")
  endif()
  file(READ "${path}" hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(APPEND arrays "static const unsigned char file_${n}[] = { ${bytes}0 };\n")
  string(APPEND rows "    { \"${name}\", file_${n}, ${size} },\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE "${OUT}" "/* Written by cmake/embed_files.cmake. */
#include \"base/embedded.h\"

${arrays}
const ml_embedded_file ${TABLE}[] = {
${rows}    { 0 },
};
")

# cmake -DOUT=recipes.c -DFOLDER=recipes -P embed_recipes.cmake: the recipes as texts in the library, so that a name is
# enough wherever it is installed.
file(GLOB files "${FOLDER}/*.ini")
list(SORT files)
set(rows "")
foreach(path IN LISTS files)
  get_filename_component(name "${path}" NAME_WLE)
  file(READ "${path}" text)
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  string(REPLACE "\n" "\\n\"\n      \"" text "${text}")
  string(APPEND rows "    { \"${name}\",\n      \"${text}\" },\n")
endforeach()
file(WRITE "${OUT}" "/* Written by cmake/embed_recipes.cmake from recipes/. */
#include \"recipe/recipe.h\"

const ml_builtin_recipe ml_builtin_recipes[] = {
${rows}    { 0 },
};
")

# cmake -DOUT=x.c -DFILE=text -DHEADER=h -DNAME=n -P embed_text.cmake: a text file as `const char n[]`.
file(READ "${FILE}" text)
string(REPLACE "\\" "\\\\" text "${text}")
string(REPLACE "\"" "\\\"" text "${text}")
string(REPLACE "\n" "\\n\"\n    \"" text "${text}")
file(WRITE "${OUT}" "/* Written by cmake/embed_text.cmake. */
#include \"${HEADER}\"

const char ${NAME}[] =
    \"${text}\";
")

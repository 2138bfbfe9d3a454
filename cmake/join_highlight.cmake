# cmake -DOUT=highlight.js -DFOLDER=/usr/share/nodejs/highlight.js/lib -DLANGUAGES="c;d" -P join_highlight.cmake: one script
# for a browser of the distribution's highlight.js and those of its languages that the page colours.
set(text "/* highlight.js, as Debian packages it (BSD 3-clause), with some of its languages. */\n")
file(READ "${FOLDER}/highlight.js" core)
string(APPEND text "{\nconst module = {};\n${core}\n}\n")
foreach(language IN LISTS LANGUAGES)
  file(READ "${FOLDER}/languages/${language}.js" source)
  string(APPEND text "{\nconst module = {};\n${source}\nglobalThis.hljs.registerLanguage(\"${language}\", module.exports);\n}\n")
endforeach()
file(WRITE "${OUT}" "${text}")

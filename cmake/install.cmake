# `cmake --install build/release [--prefix P]`: the program, the static library with its one header, and what finds
# them: moonlight.pc for pkg-config, MoonlightConfig.cmake for find_package(Moonlight).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A static library hands its own needs on to whoever links it, so all of them are public in both files.
list(JOIN MOONLIGHT_PACKAGES " " MOONLIGHT_PC_REQUIRES)
set(MOONLIGHT_PC_LIBS "-lm -pthread")
foreach(library IN LISTS MOONLIGHT_CUDA_LIBS)
  if(library MATCHES "/")
    string(APPEND MOONLIGHT_PC_LIBS " ${library}")
  else()
    string(APPEND MOONLIGHT_PC_LIBS " -l${library}")
  endif()
endforeach()
# Both find the prefix from where they lie, so that an installed tree may be moved.
file(RELATIVE_PATH MOONLIGHT_PC_PREFIX "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
configure_file(cmake/moonlight.pc.in moonlight.pc @ONLY)
configure_package_config_file(cmake/MoonlightConfig.cmake.in ${PROJECT_BINARY_DIR}/MoonlightConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Moonlight
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/MoonlightConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS moonlight_program moonlight)
install(FILES include/moonlight.h TYPE INCLUDE)
install(FILES LICENSE NOTICE TYPE DOC)
install(FILES ${PROJECT_BINARY_DIR}/moonlight.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${PROJECT_BINARY_DIR}/MoonlightConfig.cmake ${PROJECT_BINARY_DIR}/MoonlightConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Moonlight)

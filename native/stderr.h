// MXNet and OpenCV write lines to stderr where nothing is wrong, or beside an exception that says
// the same. These lines are dropped here, by what they say. Everything else passes, whichever
// thread writes it: file descriptor 2 stays what it is.
#pragma once

#if defined(__GLIBC__)

#include <ext/stdio_sync_filebuf.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

typedef std::vector<std::string> Texts;
std::atomic<const Texts*> dropped_texts;  // lines that contain one of them are dropped

void write_to_stderr(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) return;
    if (count > 0) done += static_cast<size_t>(count);
  }
}

// The line that a thread has begun. What is left of it when the thread ends is written.
struct Line {
  std::string text;
  ~Line() { write_to_stderr(text); }
};

bool is_dropped(const std::string& line) {
  for (const std::string& text : *dropped_texts.load())
    if (line.find(text) != std::string::npos) return true;
  return false;
}

// Whether a line that begins so may turn out to be dropped: MXNet and OpenCV begin theirs with the
// time or a level in brackets, the others with the text itself.
bool may_be_dropped(const std::string& line) {
  if (line.empty() || line[0] == '[') return true;
  for (const std::string& text : *dropped_texts.load())
    if (line[0] == text[0]) return true;
  return false;
}

// What stdio calls with the text that somebody writes to stderr.
ssize_t filter(void*, const char* text, size_t size) {
  static thread_local Line line;
  const int error = errno;
  for (size_t i = 0; i < size; ++i) {
    line.text += text[i];
    if (text[i] != '\n') continue;
    if (!is_dropped(line.text)) write_to_stderr(line.text);
    line.text.clear();
  }
  if (!may_be_dropped(line.text)) {
    write_to_stderr(line.text);
    line.text.clear();
  }
  errno = error;
  return static_cast<ssize_t>(size);
}

// C's stderr and C++'s std::cerr become streams that pass through `filter`. The old ones stay valid
// for a thread that is just writing to them.
bool redirect() {
  const cookie_io_functions_t functions = {nullptr, filter, nullptr, nullptr};
  FILE* const stream = fopencookie(nullptr, "w", functions);
  if (stream == nullptr) return false;
  setvbuf(stream, nullptr, _IONBF, 0);
  stderr = stream;
  std::cerr.rdbuf(new __gnu_cxx::stdio_sync_filebuf<char>(stream));
  return true;
}

}  // namespace

// Drops the lines that contain one of `texts`, which are separated by newlines, from now on and in
// place of the texts of an earlier call. Returns whether it does.
extern "C" int alexnet_drop_lines(const char* texts) {
  Texts* const all = new Texts;  // never deleted: another thread may be reading the earlier ones
  std::istringstream lines(texts);
  for (std::string text; std::getline(lines, text);) all->push_back(text);
  dropped_texts.store(all);
  static const bool redirected = redirect();
  return redirected;
}

#else

extern "C" int alexnet_drop_lines(const char*) { return 0; }

#endif

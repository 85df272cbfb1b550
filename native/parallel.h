// Threads, and what happens when one of them fails: an exception must not leave an OpenMP region,
// or the process ends.
//
// Without -fopenmp these are plain threads. ThreadSanitizer needs that (tests/native/sanitize.py):
// it cannot see how GCC's OpenMP synchronises, and would report every region.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#else
#include <thread>
#endif

#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

namespace {

// How many threads `split` uses.
int64_t threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 3;
#endif
}

// Calls work(first, last) on each thread, for its share of [0, count), and throws what one of the
// calls has thrown.
template <typename Work>
void split(int64_t count, const Work& work) {
  std::mutex mutex;
  std::exception_ptr failure;  // the first
  const auto run = [&](int64_t thread, int64_t all) {
    try {
      work(count * thread / all, count * (thread + 1) / all);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
#ifdef _OPENMP
#pragma omp parallel
  run(omp_get_thread_num(), omp_get_num_threads());
#else
  std::vector<std::thread> running;
  for (int64_t thread = 0; thread < threads(); ++thread)
    running.emplace_back(run, thread, threads());
  for (std::thread& thread : running) thread.join();
#endif
  if (failure) std::rethrow_exception(failure);
}

// Calls work(i) for each i in [0, count).
template <typename Work>
void parallel_for(int64_t count, const Work& work) {
  split(count, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i);
  });
}

// parallel_for, and a plain loop, as objects for functions that are called with either.
struct InParallel {
  static int64_t workers() { return threads(); }
  template <typename Work>
  void operator()(int64_t count, const Work& work) const {
    parallel_for(count, work);
  }
};
struct Serially {
  static int64_t workers() { return 1; }
  template <typename Work>
  void operator()(int64_t count, const Work& work) const {
    for (int64_t i = 0; i < count; ++i) work(i);
  }
};

}  // namespace

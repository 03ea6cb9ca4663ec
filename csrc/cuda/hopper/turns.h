// A cluster's tiles: one in turn each time that every cluster of the grid has had one.
#pragma once

#include <cstdint>

#include "../../common/portable.h"

namespace dynams {

// In the order of CUTLASS's persistent scheduler, which takes some two hundred instructions a tile for its divisions:
// from one tile to the next by steps it is a dozen. Along one dimension of the tiles, the minor, a swizzle goes
// together through all of the other.
struct Turns {
  uint32_t swizzle = 1, majors = 1, groups = 0;  // minors are whole groups of a swizzle
  uint32_t offset = 0, major = 0, group = 0;     // the tile
  uint32_t offset_step = 0, major_step = 0, group_step = 0;

  static DYNAMS_HD Turns of(uint32_t swizzle, uint32_t majors, uint32_t groups, uint32_t cluster, uint32_t clusters) {
    Turns turns;
    turns.swizzle = swizzle, turns.majors = majors, turns.groups = groups;
    turns.offset = cluster % swizzle, turns.offset_step = clusters % swizzle;
    turns.major = cluster / swizzle % majors, turns.major_step = clusters / swizzle % majors;
    turns.group = cluster / swizzle / majors, turns.group_step = clusters / swizzle / majors;
    return turns;
  }

  DYNAMS_HD void advance() {
    offset += offset_step;
    const bool past_swizzle = offset >= swizzle;
    if (past_swizzle) offset -= swizzle;
    major += major_step + past_swizzle;
    const bool past_majors = major >= majors;
    if (past_majors) major -= majors;
    group += group_step + past_majors;
  }
  DYNAMS_HD bool is_tile() const { return group < groups; }
  DYNAMS_HD uint32_t minor() const { return group * swizzle + offset; }
};

}  // namespace dynams

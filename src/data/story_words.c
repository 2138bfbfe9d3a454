/* Words of the stories: short, common, and none of them the start of a second meaning a child would stumble on. */
#include "data/story_words.h"

#define WORDS(name, ...)                                                                                               \
    static const char *const name##_list[] = { __VA_ARGS__ };                                                          \
    const ml_story_words name = { name##_list, sizeof name##_list / sizeof name##_list[0] }

WORDS(ml_story_names_he, "Tom", "Ben", "Max", "Sam", "Tim", "Jack", "Leo", "Finn", "Noah", "Luke", "Pip", "Toby",
      "Hugo", "Oscar", "Felix", "Milo", "Theo", "Gus", "Bobby", "Charlie", "Danny", "Eddie", "Freddy", "Jamie", "Kai",
      "Otto", "Rex", "Sonny", "Billy", "Archie", "Dexter", "Rusty");

WORDS(ml_story_names_she, "Lily", "Mia", "Anna", "Sue", "Lucy", "Emma", "Ella", "Rosie", "Daisy", "Molly", "Ruby",
      "Nina", "Zoe", "Clara", "Ivy", "Poppy", "Hazel", "Tilly", "Bella", "Penny", "Jenny", "Kitty", "Maya", "Nora",
      "Olive", "Sally", "Tina", "Wendy", "Amy", "Cora", "Dora", "Fern");

/* The first stands for "boy" or "girl". */
WORDS(ml_story_kinds, "child", "rabbit", "fox", "bear", "mouse", "cat", "dog", "duck", "frog", "owl", "squirrel",
      "hedgehog", "turtle", "deer", "lamb", "pony", "pig", "goat", "beaver", "otter", "badger", "koala", "panda",
      "monkey", "penguin");

WORDS(ml_story_traits, "little", "small", "young", "kind", "happy", "shy", "clever", "curious", "cheerful", "quiet",
      "gentle", "funny", "friendly", "lively", "playful", "sleepy", "busy", "silly", "sweet", "smart", "merry", "tiny",
      "polite", "calm");

WORDS(ml_story_grownups, "Mom", "Dad", "Grandma", "Grandpa");

WORDS(ml_story_places, "in the forest", "in the park", "in the garden", "in the meadow", "in the village",
      "in the valley", "in the yard", "by the river", "by the lake", "by the pond", "by the sea", "by the farm",
      "on the hill", "on the beach", "at the playground", "at the old mill");

WORDS(ml_story_colors, "red", "blue", "green", "yellow", "white", "brown", "pink", "purple", "orange", "golden");

WORDS(ml_story_babies, "bird", "kitten", "puppy", "duckling", "bunny", "chick", "butterfly", "snail", "ladybug",
      "lizard");

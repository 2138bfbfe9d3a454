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

/* Parts of composed words and names: no two rows of parts give one name, since vowels tell them apart.  Names have
 * their own sounds; words have most of those that English begins, holds and ends words with. */
WORDS(ml_story_name_onsets, "B", "Bl", "Br", "D", "Dr", "F", "Fl", "Fr", "G", "Gl", "Gr", "J", "K", "Kl", "Kr", "L",
      "M", "N", "Pl", "Pr", "R", "S", "Sk", "Sv", "T", "Tr", "Tw", "V", "W", "Z");
WORDS(ml_story_name_vowels, "a", "e", "i", "o", "u");
WORDS(ml_story_name_middles, "b", "d", "l", "ll", "lm", "ln", "m", "md", "n", "nd", "nn", "r", "rd", "rl", "rm", "rn",
      "rv", "sl", "v", "vr");
WORDS(ml_story_word_onsets, "", "b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr",
      "h", "j", "k", "kn", "l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sc", "sh", "sk", "sl", "sm", "sn", "sp",
      "st", "str", "sw", "t", "th", "tr", "tw", "v", "w", "wh", "y", "z");
WORDS(ml_story_word_vowels, "a", "ai", "au", "e", "ea", "ee", "i", "ie", "o", "oa", "oo", "ou", "u");
WORDS(ml_story_word_middles, "b", "bb", "bl", "c", "cc", "ck", "d", "dd", "f", "ff", "g", "gg", "gl", "k", "l", "ll",
      "m", "mb", "mm", "mp", "n", "nd", "ng", "nk", "nn", "nt", "p", "pp", "r", "rd", "rk", "rm", "rn", "rr", "rt", "s",
      "sh", "ss", "st", "t", "th", "tt", "v", "x", "z", "zz");
/* What may come before the ending. */
WORDS(ml_story_name_links, "");
WORDS(ml_story_word_links, "", "ab", "ad", "ag", "al", "am", "an", "and", "ang", "ar", "ard", "as", "at", "av", "eb",
      "ed", "el", "ell", "em", "en", "ent", "er", "es", "est", "et", "ib", "id", "ig", "il", "ill", "im", "in", "is",
      "it", "iv", "ob", "od", "og", "ol", "om", "on", "op", "or", "os", "ot", "ub", "ud", "ug", "ul", "um", "un", "und",
      "up", "ur", "us", "ut");
WORDS(ml_story_kind_ends, "", "a", "ag", "al", "an", "ant", "ar", "el", "en", "er", "et", "ie", "in", "it", "o", "ock",
      "on", "oon", "ot", "ow", "ub", "ump", "y", "abel", "ander", "angle", "arrow", "asket", "avin", "ember", "entle",
      "errin", "estin", "ibber", "icken", "iddle", "igan", "illow", "inger", "ipper", "ister", "odil", "ollin", "omble",
      "oodle", "opard", "orney", "ossum", "ottle", "ubbin", "uffin", "ulture", "umper", "unkin");
WORDS(ml_story_trait_ends, "", "al", "ant", "ed", "en", "ent", "ern", "ful", "ic", "id", "ing", "ish", "ive", "less",
      "ous", "some", "y", "able", "aded", "ained", "ambly", "ander", "antic", "arry", "astic", "ative", "elled",
      "ember", "ental", "erous", "espy", "etic", "ible", "idle", "ified", "iling", "imous", "ingle", "inous", "istic",
      "oder", "olden", "onial", "ooming", "orful", "oring", "ubble", "uling", "umbly", "unding", "urous");
WORDS(ml_story_ends_he, "an", "ar", "ek", "in", "o", "old", "or", "us");
WORDS(ml_story_ends_she, "a", "ea", "elle", "i", "ia", "ika", "ina", "y");

/* The first stands for "boy" or "girl".  The first ML_STORY_N_COMMON are words of the plots too. */
WORDS(ml_story_kinds, "child", "rabbit", "fox", "bear", "mouse", "cat", "dog", "duck", "frog", "owl", "squirrel",
      "hedgehog", "turtle", "deer", "lamb", "pony", "pig", "goat", "beaver", "otter", "badger", "koala", "panda",
      "monkey", "penguin", "wolf", "lion", "tiger", "zebra", "camel", "donkey", "horse", "sheep", "turkey", "swan",
      "stork", "crane", "heron", "robin", "sparrow", "swallow", "starling", "raven", "crow", "magpie", "parrot",
      "pigeon", "dove", "eagle", "falcon", "hawk", "kestrel", "puffin", "pelican", "flamingo", "ostrich", "peacock",
      "seagull", "cuckoo", "woodpecker", "nightingale", "finch", "lark", "thrush", "wren", "canary", "budgie", "salmon",
      "trout", "herring", "dolphin", "whale", "shark", "seal", "walrus", "octopus", "crab", "lobster", "shrimp",
      "starfish", "seahorse", "eel", "newt", "toad", "salamander", "gecko", "iguana", "chameleon", "crocodile",
      "tortoise", "dragon", "giraffe", "elephant", "hippo", "rhino", "gazelle", "antelope", "buffalo", "bison", "moose",
      "elk", "reindeer", "lynx", "leopard", "cheetah", "jaguar", "puma", "ferret", "weasel", "stoat", "marten", "mole",
      "shrew", "vole", "hamster", "gerbil", "hare", "chipmunk", "marmot", "dormouse", "raccoon", "skunk", "possum",
      "sloth", "anteater", "armadillo", "porcupine", "wombat", "kangaroo", "wallaby", "dingo", "lemur", "gibbon",
      "gorilla", "baboon", "meerkat", "mongoose", "hyena", "jackal", "coyote", "llama", "alpaca", "yak", "ox", "mule",
      "foal", "calf", "cub", "fawn", "piglet", "cricket", "beetle", "grasshopper", "dragonfly", "moth", "firefly",
      "spider", "worm", "caterpillar", "bat", "robot", "giant", "gnome", "elf", "fairy", "goblin", "troll", "knight",
      "pirate", "sailor", "baker", "farmer", "miller", "gardener", "painter", "tailor", "cobbler", "weaver", "potter",
      "shepherd", "carpenter", "blacksmith", "clown", "juggler", "drummer", "piper", "singer", "dancer", "poet",
      "captain", "merchant", "astronaut", "doctor", "nurse", "librarian", "builder", "cook", "scarecrow", "snowflake");

WORDS(ml_story_traits, "little", "small", "young", "kind", "happy", "shy", "clever", "curious", "cheerful", "quiet",
      "gentle", "funny", "friendly", "lively", "playful", "sleepy", "busy", "silly", "sweet", "smart", "merry", "tiny",
      "polite", "calm", "brave", "proud", "messy", "tall", "tidy", "neat", "patient", "careful", "humble", "singing",
      "cozy", "lovely", "sunny", "wooden", "knitted", "crooked", "bold", "lazy", "greedy", "grumpy", "noisy", "nosy",
      "clumsy", "dreamy", "lonely", "jolly", "hungry", "thirsty", "chubby", "skinny", "plump", "slim", "short",
      "fluffy", "fuzzy", "furry", "hairy", "woolly", "spotted", "striped", "speckled", "freckled", "dusty", "muddy",
      "shiny", "sparkling", "shabby", "ragged", "fancy", "elegant", "graceful", "nimble", "swift", "speedy", "hasty",
      "sluggish", "sturdy", "mighty", "fearless", "daring", "timid", "nervous", "anxious", "worried", "gloomy", "moody",
      "cranky", "stubborn", "naughty", "cheeky", "mischievous", "sneaky", "tricky", "crafty", "cunning", "wise",
      "careless", "forgetful", "thoughtful", "helpful", "generous", "loyal", "faithful", "trusty", "sincere", "modest",
      "noble", "royal", "famous", "humming", "whistling", "dancing", "jumping", "limping", "wandering", "traveling",
      "sneezing", "yawning", "snoring", "giggling", "chattering", "whispering", "bouncing", "waddling", "wobbly",
      "dizzy", "drowsy", "weary", "restless", "eager", "keen", "excited", "thrilled", "surprised", "puzzled",
      "confused", "startled", "bashful", "blushing", "smiling", "grinning", "frowning", "pouting", "weepy", "sensitive",
      "tender", "caring", "loving", "cuddly", "charming", "handsome", "dainty", "delicate", "fragile", "frail",
      "healthy", "chilly", "frosty", "snowy", "stormy", "breezy", "silvery", "crimson", "scarlet", "turquoise",
      "emerald", "amber", "bronze", "copper", "velvet", "silken", "curly", "bald", "bearded", "barefoot", "toothless",
      "gifted", "talented", "inventive", "artistic", "musical", "bookish", "studious", "scholarly", "mysterious",
      "magical", "enchanted", "invisible", "peculiar", "odd", "strange", "quirky", "zany", "goofy", "wacky", "bubbly",
      "zesty", "sassy", "snappy", "fiery", "peppy", "perky", "spunky", "feisty", "rowdy", "boisterous", "rambunctious",
      "tame", "fidgety", "flustered", "grateful", "hopeful", "joyful", "jubilant", "optimistic", "peaceful", "serene",
      "solemn", "earnest", "diligent", "industrious", "nocturnal", "plucky", "valiant", "gallant", "chivalrous",
      "courteous", "dapper", "rustic", "homely", "distant", "wistful");

WORDS(ml_story_grownups, "Mom", "Dad", "Grandma", "Grandpa");

WORDS(ml_story_places, "in the forest", "in the park", "in the garden", "in the meadow", "in the village",
      "in the valley", "in the yard", "by the river", "by the lake", "by the pond", "by the sea", "by the farm",
      "on the hill", "on the beach", "at the playground", "at the old mill");

WORDS(ml_story_colors, "red", "blue", "green", "yellow", "white", "brown", "pink", "purple", "orange", "golden");

WORDS(ml_story_babies, "bird", "kitten", "puppy", "duckling", "bunny", "chick", "butterfly", "snail", "ladybug",
      "lizard");

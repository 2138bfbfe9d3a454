/* What happens in the stories: one plot for each theme. */
#include "data/story_words.h"

const char ml_story_announce[] =
    "[[This is|Here comes|Listen to] [the|a] [story|tale] of|[Now|Here] you [hear|will hear] of] {a trait} {kind}"
    "[| named {N}| {at}| and {a ftrait} {fkind}| and of {F}|, {N}, who lived {at}]."
    "[ [There is|You will find|You will also meet] [{F}|{a ftrait} {fkind}] in it.| It happens {at}."
    "| It [tells|speaks] of {theme}.|]"
    "[ In this story: [{at}, {F}|{F}, {at}|{0}, {F}|{N}, {0}|{F}, {0}, {at}|{at}, {0}, {N}|{a ftrait} {fkind}, {0}"
    "|{0}, {a ftrait} {fkind}, {F}|{N}, {F}|{F}, {N}, {at}, {0}|{0}, {at}, {a ftrait} {fkind}, {N}].|]";

const char ml_story_open[] =
    "[[Once upon a time|Once|Long ago], there was {a trait} {kind} named {N}. {He} lived [in a [cozy|little|warm] house"
    "|with {his} family|in a little home] {at}.|"
    "There once was {a trait} {kind} [called|named] {N}. {He} [liked to play|played every day|had a [cozy|little] home]"
    " {at}.|"
    "[Not far from here|Far, far away], {a trait} {kind} named {N} lived {at}.|"
    "{N} was {a trait} {kind} who [lived|loved to play] {at}.|"
    "This is a story about {N}, {a trait} {kind} who lived {at}.]";

const char ml_story_meet[] = "[{His} best friend was {a ftrait} {fkind} named {F}.|"
                             "{N} had a [good|dear] friend, {a ftrait} {fkind} named {F}.|"
                             "Every day, {he} played with {F}, {a ftrait} {fkind}.|"
                             "{A ftrait} {fkind} named {F} lived next door, and they were [good|best] friends.]";

const char ml_story_day[] = "One [[sunny|warm|bright|windy|cool|quiet|fine|rainy] [morning|day|afternoon]|day|morning]";

const char ml_story_end[] = "[[They|{N} and {F}] [were|stayed] [good|best] friends [ever after|for a long, long time].|"
                            "And they [all lived|lived] happily ever after.|"
                            "[That night|When night came], {N} [went to bed|fell asleep] with a [smile|happy heart].|"
                            "[It was a [very good|wonderful|happy] day.|It was the best day of the year.]|"
                            "From then on, {N} [always remembered that day|never forgot it].|"
                            "[And that|This] was the story of {a trait} {kind} [named {N}|and {a ftrait} {fkind}].|]";

#define SUBJECTS(name) name, sizeof name / sizeof name[0]

/* {0} many, {1} one */
static const ml_story_subject_row treats[] = {
    { { "cookies", "cookie" } },  { { "apples", "apple" } },   { { "pears", "pear" } },
    { { "berries", "berry" } },   { { "muffins", "muffin" } }, { { "pancakes", "pancake" } },
    { { "plums", "plum" } },      { { "peaches", "peach" } },  { { "carrots", "carrot" } },
    { { "nuts", "nut" } },        { { "buns", "bun" } },       { { "cupcakes", "cupcake" } },
    { { "cherries", "cherry" } }, { { "grapes", "grape" } },   { { "strawberries", "strawberry" } },
};

/* {0} the toy */
static const ml_story_subject_row toys[] = {
    { { "ball" } },   { { "kite" } }, { { "toy car" } }, { { "toy boat" } }, { { "hat" } },    { { "scarf" } },
    { { "drum" } },   { { "doll" } }, { { "balloon" } }, { { "blanket" } },  { { "bucket" } }, { { "whistle" } },
    { { "marble" } }, { { "book" } }, { { "ribbon" } },  { { "bell" } },     { { "top" } },    { { "backpack" } },
};

/* {0} to do it, {1} how it goes wrong, {2} the advice, {3} how it goes right */
static const ml_story_subject_row skills[] = {
    { { "swim", "{he} went under the water and came up with a wet nose", "Kick your legs slowly and look up",
        "{he} swam all the way across the pond" } },
    { { "ride a bike", "{he} fell into the soft grass", "Look ahead and keep your feet moving",
        "{he} rode the bike down the long path" } },
    { { "fly a kite", "the kite fell to the ground", "Run with the wind and hold the string tight",
        "the kite flew high up in the sky" } },
    { { "climb a tree", "{he} slid down and landed on {his} bottom", "Hold on tight and go one branch at a time",
        "{he} sat on the top branch and looked far away" } },
    { { "skip a stone", "the stone went into the water with a plop", "Find a flat stone and throw it low",
        "the stone jumped five times on the water" } },
    { { "paint a picture", "the colors ran into a big gray spot", "Use a little water and take your time",
        "there was a lovely picture of the sun" } },
    { { "bake a cake", "the cake came out flat and black", "Mix it well and do not leave it in too long",
        "the cake was soft and sweet" } },
    { { "catch a ball", "the ball flew past {his} hands", "Keep your eyes on the ball",
        "{he} caught the ball three times" } },
    { { "whistle", "only air came out", "Make your mouth round and blow gently", "{he} whistled a happy tune" } },
    { { "skate on the ice", "{his} feet went one way and {he} went the other", "Bend your knees and take small steps",
        "{he} went round and round on the ice" } },
    { { "jump over the log", "{he} tripped and rolled into the leaves", "Run fast first and then jump",
        "{he} flew over the log like a bird" } },
    { { "write neatly", "the letters came out all crooked", "Draw one letter at a time",
        "the words stood there, big and neat" } },
    { { "play the drum", "it sounded like pots falling down the stairs", "Count to four and hit it softly",
        "everyone danced to the sound of the drum" } },
    { { "tie a knot", "the string came apart again", "Make a loop first and pull the end through",
        "the knot held fast" } },
};

/* {0} the fear, {1} the friend's trouble, {2} the brave act, {3} how it ends */
static const ml_story_subject_row fears[] = {
    { { "the dark", "{F} was lost in a dark cave", "took a small lamp and walked into the cave",
        "{N} found {F} and led {fhim} back into the light" } },
    { { "thunder", "{F} was out alone in a loud storm", "put on a coat and ran out into the rain",
        "{N} found {F} under a tree and brought {fhim} home" } },
    { { "deep water", "{F} fell into the deep water", "took a long branch and went to the edge of the water",
        "{F} held on to the branch, and {N} pulled {fhim} out" } },
    { { "high places", "{F} was stuck at the top of a high wall", "took a ladder and climbed up step by step",
        "{F} climbed down the ladder behind {N}" } },
    { { "the old bridge", "{F} hurt {fhis} foot on the other side of the old bridge",
        "held the rope and walked over the bridge", "{N} helped {F} walk back over the bridge" } },
    { { "the big goose", "the big goose would not let {F} pass", "stood tall and clapped as loud as {he} could",
        "the goose ran away, and {F} was free to go" } },
    { { "loud noises", "{F} was trapped behind a door that went bang in the wind",
        "covered {his} ears and pulled the door open", "{F} came out safe and sound" } },
    { { "snow", "{F} slipped into a deep pile of snow", "stepped out into the white snow and began to dig",
        "{N} pulled {F} out of the cold snow" } },
    { { "bees", "{F} sat still with a bee on {fhis} nose and did not dare to move",
        "walked up slowly and held out a sweet flower", "the bee flew to the flower and left {F} alone" } },
    { { "the long tunnel", "the toy wagon rolled away with {F} into the long tunnel",
        "took a deep breath and ran into the tunnel", "{N} stopped the wagon, and {F} jumped out" } },
};

/* {0} the thing, {1} how it broke, {2} how it is mended */
static const ml_story_subject_row breakables[] = {
    { { "vase", "{He} threw a ball inside the house, and it hit the vase", "glued the pieces together" } },
    { { "cup", "{He} ran past the table, and the cup fell down", "made a new cup out of clay" } },
    { { "plate", "{He} tried to spin the plate on one finger, and it fell",
        "painted a new plate with little flowers" } },
    { { "lamp", "{He} jumped on the bed, and the lamp fell over", "put a new light into the lamp" } },
    { { "window", "{He} kicked a ball too hard, and it went through the window", "put in a new piece of glass" } },
    { { "clock", "{He} wanted to see what was inside the clock, and a spring jumped out",
        "put the spring back into the clock" } },
    { { "mirror", "{He} danced too close to the mirror, and it fell", "hung up a new mirror" } },
    { { "flower pot", "{He} chased a fly around the room, and the flower pot fell",
        "found a new pot for the flowers" } },
    { { "teapot", "{He} played with the teapot, and it slipped out of {his} hands", "glued the teapot together" } },
    { { "chair", "{He} rocked on the chair until a leg broke", "fixed the leg with wood and nails" } },
    { { "jar of honey", "{He} reached for the jar of honey, and it fell on the floor", "cleaned the sticky floor" } },
    { { "music box", "{He} wound up the music box too far, and it stopped", "fixed the music box with a tiny key" } },
};

/* {0} the game, {1} how they play it */
static const ml_story_subject_row games[] = {
    { { "hide and seek", "{F} hid behind a tree, and {N} found {fhim}" } },
    { { "tag", "They ran in circles until they fell down laughing" } },
    { { "catch", "The ball flew from one to the other all day long" } },
    { { "jump rope", "They jumped and counted up to one hundred" } },
    { { "hopscotch", "They hopped on one foot and then on the other" } },
    { { "pirates", "They made a ship out of boxes and looked for gold" } },
    { { "marbles", "The marbles rolled and clicked in the sand" } },
    { { "house", "They made soup out of leaves and sat at a table of stone" } },
    { { "knights", "They made hats out of paper and guarded a castle" } },
    { { "dress up", "They put on big hats and long coats" } },
    { { "racing", "Sometimes {N} won, and sometimes {F} won" } },
    { { "school", "{F} was the teacher, and {N} read to {fhim} from a book" } },
};

/* {0} the thing, {1} how it fails, {2} how they do it together, {3} what they do with it */
static const ml_story_subject_row buildings[] = {
    { { "tree house", "The boards were too heavy, and they fell down", "{F} held the boards while {N} hit the nails",
        "They sat in the tree house and looked at the stars" } },
    { { "sand castle", "A wave came and washed it away", "{F} dug a wall around it while {N} made the towers",
        "They put a flag on top and danced around it" } },
    { { "snowman", "The snowball was too big, and {he} could not lift it", "{N} and {F} lifted the snowball together",
        "They gave the snowman a carrot nose and a scarf" } },
    { { "raft", "The raft came apart in the water", "{F} tied the ropes while {N} held the logs",
        "They floated over the water and waved to the fish" } },
    { { "tower of blocks", "It was too crooked, and it fell with a crash",
        "{F} put down a big block, and {N} put a small one on top", "The tower was taller than both of them" } },
    { { "swing", "The rope was too high, and {he} could not reach the branch",
        "{N} climbed on a box, and {F} handed over the rope", "They took turns on the swing" } },
    { { "bird house", "The roof did not fit, and the rain came in", "{F} cut the wood while {N} painted it",
        "Soon a family of birds moved in and sang every day" } },
    { { "tent", "The wind blew the sheet away", "{F} held the sheet while {N} tied it to a tree",
        "They lay in the tent and told funny stories" } },
    { { "bridge of stones", "The stones were slippery and rolled away",
        "{F} passed the stones, and {N} put them in a row", "They walked over the water without getting wet" } },
    { { "wagon", "The wheels fell off, one by one", "{F} held the wheels while {N} put them on",
        "They rolled down the hill and laughed out loud" } },
};

/* {0} the gift, {1} how it is made, {2} what the friend does with it */
static const ml_story_subject_row gifts[] = {
    { { "paper crown", "cut the paper and painted it gold", "{F} put it on and felt like a star" } },
    { { "card", "drew two friends under a rainbow", "{F} read it three times and hung it over {fhis} bed" } },
    { { "necklace", "put small shells on a string", "{F} wore it all day long" } },
    { { "picture book", "drew ten pictures and sewed them together", "{F} looked at every page and laughed" } },
    { { "wooden boat", "cut a piece of wood and gave it a white sail",
        "{F} took it to the water, and it did not sink" } },
    { { "honey cake", "mixed flour, eggs, and a lot of honey", "{F} cut it into pieces, and everyone had some" } },
    { { "warm scarf", "knitted until the moon came up", "{F} put it around {fhis} neck at once" } },
    { { "flower basket", "picked the best flowers and wove a basket",
        "{F} put it on the table, and the room smelled sweet" } },
    { { "song", "thought of a tune and found words for it", "{F} sang along, and soon everyone was singing" } },
    { { "puppet", "took an old sock and sewed on two buttons", "{F} made the puppet talk in a funny voice" } },
    { { "kite", "glued paper to thin sticks", "{F} ran outside and let it fly" } },
    { { "pillow", "filled a soft cloth with feathers", "{F} put {fhis} head on it and closed {fhis} eyes" } },
};

/* {0} the seed of, {1} what comes up */
static const ml_story_subject_row plants[] = {
    { { "sunflower", "a tall sunflower with yellow petals" } },
    { { "tomato", "a green plant with round, red tomatoes" } },
    { { "pumpkin", "a long vine with a big, orange pumpkin" } },
    { { "apple tree", "a thin little tree with two leaves" } },
    { { "rose", "a pink rose that smelled sweet" } },
    { { "bean", "a plant so long that it climbed up the fence" } },
    { { "carrot", "a green top with a fat carrot under it" } },
    { { "strawberry", "a small plant with one red strawberry" } },
    { { "daisy", "a white daisy that turned to the sun" } },
    { { "melon", "a round melon as big as a ball" } },
    { { "tulip", "a bright red tulip" } },
    { { "pea", "a row of pods full of sweet peas" } },
};

/* {0} where the small animal is stuck, {1} how it gets free */
static const ml_story_subject_row traps[] = {
    { { "under a heavy branch", "{F} pulled the branch up, and {N} lifted the {baby} out" } },
    { { "in a deep hole", "{F} put a long stick into the hole, and the {baby} held on to it" } },
    { { "in a net", "{F} held the net, and {N} opened the knots one by one" } },
    { { "in the mud", "{F} put down a flat board, and {N} reached over to the {baby}" } },
    { { "in a thorny bush", "{N} bent the thorns away, and {F} took the {baby} out" } },
    { { "behind a fence", "{F} dug under the fence, and the {baby} came through" } },
    { { "in an old bottle", "{N} tipped the bottle slowly, and {F} caught the {baby}" } },
    { { "on a rock in the water", "{F} found a big leaf, and the {baby} floated to {N} on it" } },
    { { "between two stones", "{N} and {F} pushed the stones apart" } },
    { { "in a tall tree", "{F} held the ladder, and {N} carried the {baby} down" } },
};

/* {0} the game they quarrel over, {1} the quarrel */
static const ml_story_subject_row quarrels[] = {
    { { "a board game", "{N} lost and threw the board on the floor" } },
    { { "hide and seek", "{N} looked while counting, and {F} saw it" } },
    { { "cards", "{N} did not want to wait for {his} turn" } },
    { { "ball", "{N} kept the ball and would not throw it back" } },
    { { "tag", "{N} pushed too hard, and {F} fell down" } },
    { { "a puzzle", "{N} hid the last piece to put it in alone" } },
    { { "trains", "{N} wanted all the wagons and pulled them away" } },
    { { "chess", "{N} moved a piece when {F} was not looking" } },
    { { "kings and queens", "{N} wanted to wear the crown all the time" } },
    { { "jump rope", "{N} laughed when {F} tripped over the rope" } },
    { { "painting", "{N} spilled water on {F}'s picture and did not care" } },
    { { "building towers", "{N} kicked down the tower that {F} had made" } },
};

/* {0} to do what, {1} the boast, {2} what goes wrong */
static const ml_story_subject_row boasts[] = {
    { { "run to the big oak tree", "the fastest runner", "{N} looked back, tripped over a root, and fell" } },
    { { "swim across the lake", "the best swimmer", "{N} swam too fast and got so tired that {he} could not go on" } },
    { { "climb the tall rock", "the best climber", "{N} took the wrong way and got stuck on a ledge" } },
    { { "jump over the stream", "the best jumper", "{N} did not look and jumped right into the water" } },
    { { "roll down the hill", "the best at rolling", "{N} rolled the wrong way and ended up in a bush" } },
    { { "row to the little island", "the best at rowing", "{N} lost an oar and went around in circles" } },
    { { "carry water from the well", "the strongest of all", "{N} took too much and spilled it all over {his} feet" } },
    { { "ride down the long road", "the best rider", "{N} did not see the puddle and fell in with a splash" } },
    { { "find the hidden treasure", "the smartest of all", "{N} did not read the map and got lost" } },
    { { "stack all the boxes", "the best at stacking", "{N} stacked them too high, and they fell on {his} toes" } },
};

/* {0} the thing that cannot be found, {1} where it was */
static const ml_story_subject_row untidy[] = {
    { { "left shoe", "under a pile of old socks" } },  { { "warm coat", "behind the toy box" } },
    { { "spoon", "inside a rubber boot" } },           { { "school bag", "under the bed" } },
    { { "rain hat", "below a hill of blankets" } },    { { "crayon box", "in the bath tub" } },
    { { "story book", "under seven stuffed bears" } }, { { "toothbrush", "in a toy truck" } },
    { { "house key", "in a box of blocks" } },         { { "party hat", "behind the curtain" } },
    { { "lunch box", "under a wet towel" } },          { { "left mitten", "inside the big drum" } },
};

const ml_story_theme ml_story_themes[] = {
    { "sharing",
      SUBJECTS(treats),
      { "{open} {meet}",
        "/{day}, {G} gave {N} [a [big|full] basket of {0}|a basket full of {0}]. <{N} [wanted to eat them all "
        "alone|did "
        "not want to give any away|held the basket tight].>",
        "<[{F} came [by|along|over] and saw the basket.|Soon {F} came to [visit|play].]> [\"Those {0} look so good,\" "
        "said {F}. \"May I have one?\"|\"Oh, {0}! [Could I have one, please|Will you share with me]?\" asked {F}.]",
        "\"No, [they are all mine|these are mine|I want them all]!\" said {N}. {F} [looked down and walked away|felt "
        "sad and went home|sat down under a tree and was very quiet].",
        "/{N} ate [one {1}|some of the {0}], but [it was no fun to eat alone|it did not taste so good|{he} did not "
        "feel happy]. <\"Why do I feel so [bad|sad]?\" asked {N}.> \"[Maybe the {0} taste better with a friend|Good "
        "things are better when we share them|A happy heart likes to share],\" said {G}.",
        "/{N} [ran|hurried] to {F} with the basket. \"I am sorry,\" said {N}. \"[Let us eat them together|Please take "
        "some|Half of the {0} are for you].\" <{F} [smiled|laughed|clapped {fhis} hands|gave {N} a big hug].>",
        "They sat [down|in the sun|side by side] and ate the {0}. [{N} learned that sharing makes everyone happy.|Now "
        "the {0} tasted [better than before|so sweet].|It feels good to share.|A shared {1} tastes the best.]",
        "<{end}>" } },
    { "asking for help",
      SUBJECTS(toys),
      { "{open} {N} had {a color} {0}, and {he} [loved it very much|took it everywhere|played with it all the time]. "
        "{meet}",
        "/{day}, {N} wanted to play with the {0}, but it was gone. {He} looked [under the bed|in the kitchen|behind "
        "the door] and [under the table|in the big box|on the stairs], but [it was not there|{he} could not find it]. "
        "<{N} [began to cry|was very sad|sat down and cried].>",
        "{F} [heard {him}|saw {him}] and came over. <\"What is wrong, {N}?\" asked {F}. \"I lost my {color} {0},\" "
        "said "
        "{N}.> \"[Do not worry|Do not cry]. [I will help you|We will find it together|Two can look better than one],\" "
        "said {F}.",
        "/They [went out|went outside|walked up and down] and looked [everywhere|high and low|behind every tree]. "
        "<[They asked {G}, but {G} had not seen it.|They looked for a long time.|They did not give up.]> [At last|Then|"
        "Soon], {F} saw something {color} [under a bush|behind a big rock|in the tall grass|next to an old log|under a "
        "bench]. <\"[Look, there it is|Here it is|I see it]!\" [said|called|shouted] {F}.>",
        "/{N} [hugged|held] the {0} and [jumped up and down|smiled a big smile|danced around]. \"Thank you, {F},\" "
        "said "
        "{N}. \"[You are a good friend|I could not find it alone|You are so kind].\"",
        "[{N} and {F} played with the {0} until [the sun went down|it was time for dinner].|From that day on, {N} "
        "always put the {0} back in its place.|{N} learned that it is good to ask for help.|{N} learned that friends "
        "help each other.]",
        "<{end}>" } },
    { "trying again",
      SUBJECTS(skills),
      { "{open} {meet}",
        "/[{N} wanted to {0}.|More than anything, {N} wanted to {0}.|{N} had a dream. {He} wanted to {0}.] {day}, {he} "
        "[tried for the first time|tried it], but {1}. <{He} tried [again|one more time|two more times], and {1}.>",
        "\"I can not do it,\" said {N}. \"I will never [learn it|get it right].\" <{He} [felt sad|was ready to give "
        "up|kicked a little stone|looked at the ground].>",
        "/{F} [came and sat next to {him}|had seen it all|came closer]. \"[It was hard for me too|Nobody can do it the "
        "first time|I had to try many times too],\" said {F}. \"{2}.\" [\"Will you show me?\" asked {N}. \"Of "
        "course,\" "
        "said {F}.|{F} showed {him} how to do it.|]",
        "/So {N} [tried again|tried every day|took a deep breath and tried again]. <[The next day, it was a little "
        "better.|Each time it was a bit better.|It was still hard, but {he} did not stop.]> [Then|At last|Soon], {3}.",
        "\"[I did it|Look at me|I can do it]!\" [shouted|called|cried] {N}. <{F} [clapped {fhis} hands|cheered|jumped "
        "for joy].> [{G} came to see it and was so proud.|]",
        "[{N} learned to keep trying.|{N} learned that you must try again and again.|{N} was glad that {he} did not "
        "give "
        "up.|If you keep trying, hard things get easy.]",
        "<{end}>" } },
    { "being brave",
      SUBJECTS(fears),
      { "{open} [But {N} was afraid of {0}.|There was one thing {he} did not like. {N} was afraid of {0}.|{He} was not "
        "afraid of many things, but {he} was afraid of {0}.] {meet}",
        "/{day}, {N} heard [a cry|someone call|a small voice]. <\"Help! [Please help me|Is anybody there|Come "
        "quick]!\"> "
        "[It was {F}.|It was the voice of {F}.] {Fhe} was in trouble: {1}.",
        "<{N} [began to shake|felt {his} heart beat fast|stood very still].> \"[I am so scared|I am afraid of {0}],\" "
        "said {N}. \"But [{F} needs me|my friend needs me|I must help my friend].\"",
        "/[So|Then] {N} {2}. <[{He} was scared, but {he} did not stop.|One step, two steps, three steps.|{His} legs "
        "shook, but {he} went on.]> [In the end|At last|Then], {3}.",
        "/\"Thank you, {N},\" said {F}. \"You [were so brave|are the bravest {kind} I know].\" <\"I was afraid,\" said "
        "{N}, \"but [I did it for you|you are my friend].\">",
        "[{G} was very proud of {him}.|{G} gave them both a warm [drink|hug].|] [After that, {0} did not seem so bad.|"
        "{N} learned that being brave means to be afraid and still go on.|From that day on, {N} was not so afraid of "
        "{0}.]",
        "<{end}>" } },
    { "telling the truth",
      SUBJECTS(breakables),
      { "{open} {meet}",
        "/{day}, {N} was alone in the house. {1}. <Crash!> The {0} was broken. <\"Oh no,\" [said|cried] {N}. \"[It was "
        "the favorite {0} of {G}.|What will {G} say?|{G} will be so sad.]\">",
        "{N} [hid behind the door|wanted to hide|ran outside]. There {he} met {F}. <\"[What is wrong|Why do you look "
        "so "
        "sad]?\" asked {F}.> {N} told {fhim} [everything|about the {0}]. <\"[Should I say that the wind did it|Should "
        "I "
        "hide it|What should I do]?\" asked {N}.>",
        "\"[You must tell the truth|It is best to tell the truth|A lie will only make it worse],\" said {F}. <\"[I "
        "will "
        "come with you|It is hard, but you can do it|You will feel better].\">",
        "/{N} went [home|inside|back] and [took a deep breath|held {his} head low|looked up at {G}]. \"{G}, I broke "
        "the "
        "{0},\" said {N}. \"I am very sorry.\"",
        "{G} was [quiet for a moment|not angry|a little sad]. \"[I am glad that you told me the truth|Thank you for "
        "telling me|That was brave of you],\" said {G}. \"[A {0} can break, but I can always trust you|We can fix it "
        "together].\"",
        "/Together they {2}. [{F} helped them too.|] [{N} felt light and happy.|{N} was more careful after that.|{N} "
        "learned that it is always best to tell the truth.]",
        "<{end}>" } },
    { "making friends",
      SUBJECTS(games),
      { "{open} [{N} was new there and had no friends yet.|{N} had just moved there, and {he} did not know anyone.|{N} "
        "had many toys, but nobody to play with.]",
        "/{day}, {N} saw {a ftrait} {fkind} [on a bench|under a tree|on a big stone]. <\"[I would like to play|{Fhe} "
        "looks "
        "nice],\" thought {N}.> But {he} [was too shy to say hello|did not know what to say|only looked from far "
        "away].",
        "{N} went home and told {G}. \"[Just say hello and smile|A smile is a good start|Maybe the {fkind} is shy "
        "too],\" said {G}. <[{N} thought about it all night.|\"I will try it,\" said {N}.]>",
        "/The next day, the {fkind} was there again. {N} [took a deep breath|counted to three] and [walked over|went "
        "closer]. \"Hello, I am {N},\" {he} said. \"[What is your name|Who are you]?\" \"My name is {F},\" said the "
        "{fkind}. <\"[I am so glad that you came|I wanted to talk to you too|I hoped that you would come].\">",
        "Then {N} asked, \"Do you want to play {0}?\" \"[Yes, I love {0}|That is my favorite game|Oh yes],\" said {F}. "
        "{1}.",
        "/When it was time to go home, {F} asked, \"[Will you come back tomorrow|Can we play again tomorrow]?\" "
        "\"[Yes|Of "
        "course|Every day],\" said {N}. [{N} was not alone any more.|Now {N} had a friend.|{N} learned that one hello "
        "can "
        "make a friend.]",
        "<{end}>" } },
    { "working together",
      SUBJECTS(buildings),
      { "{open} {meet}",
        "/{day}, {N} [had an idea|had a plan]. \"I will make a {0},\" said {N}. [\"It will be the best {0} of all.\" |]"
        "{F} asked, \"May I help you?\" \"No, I can do it alone,\" said {N}.",
        "<{N} [worked all morning|worked very hard|began at once].> But it was not easy. {1}. {N} tried [again|once "
        "more], but [it was no good|it did not work]. <{He} [sat down and sighed|was tired and sad|wanted to cry].>",
        "/{F} came back with [a cup of water|some lemonade|two apples]. \"[It is hard to do it alone|Two can do more "
        "than one|Let us try it together],\" said {F}. <{N} [nodded|smiled a little]. \"[You are right|Yes, please "
        "help me|I was silly to say no],\" said {N}.>",
        "/So they [worked together|began again|helped each other]. {2}. <[{G} brought them bread and cheese.|It went "
        "much faster.|They laughed and sang while they worked.]> [Soon|Before the sun went down|At last], the {0} was "
        "done.",
        "{3}. [\"We did it!\" [said|shouted] {N}.|\"It is the best {0} in the world,\" said {F}.|] [{N} learned that "
        "working together is better.|{N} learned that many hands make hard work easy.|After that, {N} never said no to "
        "a helping friend.]",
        "<{end}>" } },
    { "giving",
      SUBJECTS(gifts),
      { "{open} {meet}",
        "/[Soon it was the birthday of {F}.|It was almost the birthday of {F}.] {N} wanted to give {fhim} something "
        "[nice|special]. But {he} had [no money|only one small coin]. <\"What can I do?\" {he} [thought|said].>",
        "{N} asked {G}. \"[The best gifts come from the heart|You do not need money|Make something with your own "
        "hands],\" said {G}. [Then {N} had a good idea.|{N} thought for a long time, and then {he} knew it.]",
        "/{He} wanted to make a {0}. {day}, {N} sat down and {1}. <[It took a long time.|It was hard work.|{He} worked "
        "all day.]> [It was not perfect, but it was made with love.|At last the {0} was ready.|]",
        "/On the birthday, {N} [was a little afraid|felt shy]. <[The other gifts were so big.|\"What if {fhe} does not "
        "like it?\" {he} thought.]> \"[This is for you|Happy birthday], {F},\" said {N}. \"It is {a 0}. I made it "
        "myself.\"",
        "<[The eyes of {F} grew wide.|{F} smiled from ear to ear.]> \"[It is the best gift of all|I love it|You made "
        "this "
        "for me],\" said {F}. {2}.",
        "[{N} learned that a gift from the heart is the best gift.|{N} was so happy that {he} danced.|Giving made {N} "
        "as "
        "happy as getting.]",
        "<{end}>" } },
    { "being patient",
      SUBJECTS(plants),
      { "{open} {meet}",
        "/{day}, {G} gave {N} a [tiny|small] seed. \"This is {a 0} seed,\" said {G}. <\"[Put it in the ground and give "
        "it water|Plant it in a sunny spot].\"> {N} [dug a little hole|put the seed in the soft, brown ground] and "
        "gave "
        "it some water.",
        "The next day, {N} [ran outside|looked at the ground]. Nothing was there. <{He} looked again [in the "
        "evening|the "
        "day after], and still there was nothing.> \"[It does not grow|My seed is broken|It takes too long]!\" said "
        "{N}.",
        "/{F} came to look. \"[You have to wait|Good things take time|The seed is only sleeping],\" said {F}. <\"[Give "
        "it "
        "water every day|Let the sun and the rain help|Do not dig it up].\"> [\"Waiting is so hard,\" said {N}. \"I "
        "will "
        "wait with you,\" said {F}.|]",
        "/[So they waited.|{N} gave it water every day.] <[The sun came, and the rain came.|Days went by.|They sang a "
        "song "
        "for the seed.]> [Then, one morning,|One day,] {N} saw something green. <\"[Look|Come quick], {F}!\" called "
        "{N}.>",
        "It grew a little every day. [Soon|After some weeks], there was {1}. \"[You waited so well|It is so pretty|Now "
        "you see it],\" said {F}. [{N} learned to be patient.|{N} learned that good things take time.|{N} was glad "
        "that "
        "{he} had waited.]",
        "<{end}>" } },
    { "helping others",
      SUBJECTS(traps),
      { "{open} {meet}",
        "/{day}, {N} and {F} [went for a walk|were playing outside|picked flowers]. [Suddenly|Then], they heard a "
        "[small|sad|soft] sound. <\"[What was that|Did you hear that]?\" asked {N}.> <They looked around.> A little "
        "{baby} "
        "was stuck {0}.",
        "\"[Poor {baby}|Oh no, the poor {baby}],\" said {F}. <\"[We must help it|It wants to go home|It is all "
        "alone].\"> "
        "{N} [tried to reach it, but {he} could not do it alone|thought hard|was afraid to hurt it].",
        "/\"I [know what to do|have an idea],\" said {N}. \"[Will you help me|Can you help me], {F}?\" \"Yes,\" said "
        "{F}. <[They were very careful.|They worked slowly and softly.]> {1}. The {baby} was free!",
        "<[They gave it some water.|{N} held it in {his} warm hands.|They took it to {G}, and {G} gave it some food.]> "
        "[Soon the {baby} was well again.|After a little rest, the {baby} felt better.]",
        "/The {baby} looked at them [and went home to its mother|as if to say thank you|and then it went back to its "
        "family]. \"[Goodbye, little {baby}|Take care, little one],\" said {N}. [The next day, it came back to say "
        "hello.|They waved until it was out of sight.|]",
        "[{N} felt warm inside.|{N} learned that even small ones can do big things.|{N} learned that helping others "
        "feels "
        "good.]",
        "<{end}>" } },
    { "saying sorry",
      SUBJECTS(quarrels),
      { "{open} {meet}",
        "/{day}, {N} and {F} were playing {0}. <[At first, they had a lot of fun.|They laughed a lot.]> But then {1}. "
        "<\"[That is not fair|That was not nice|Please stop that],\" said {F}.>",
        "\"I do not care,\" said {N}. \"[Go away|I do not want to play with you|You are no fun]!\" The eyes of {F} "
        "filled "
        "with tears. <{Fhe} [went home|ran away|walked off] without a word.>",
        "/<[{N} played alone, but it was boring.|Now it was very quiet.|{N} sat there, and nobody was left to play "
        "with.]> "
        "{He} told {G} what had happened. \"[Unkind words hurt|Words can hurt like a stone|Friends are not for "
        "shouting at],\" said "
        "{G}. <\"[What could you say to {F}|What can you do now]?\">",
        "<{N} [thought about it|was quiet for a while].> [Then {he} felt very sorry.|{He} knew that {he} was wrong.]",
        "/{N} went to {F} and [knocked on the door|gave {fhim} a flower|sat down next to {fhim}]. \"I am sorry,\" said "
        "{N}. \"[I was mean|I was wrong|I hurt you]. [Can we be friends again|Will you play with me again]?\"",
        "{F} [wiped away {fhis} tears|looked up] and smiled. \"[Yes, we can|I forgive you|We are still friends],\" "
        "said "
        "{F}. They [played {0} again|hugged], and this time {N} was [kind|fair|nice]. [{N} learned that saying sorry "
        "can mend a friendship.|It is good to say sorry.|]",
        "<{end}>" } },
    { "being humble",
      SUBJECTS(boasts),
      { "{open} {meet}",
        "/{N} [liked to brag|always said big words]. \"I am {1},\" said {N}. <\"[Nobody is as good as me|You are too "
        "slow for me|You can never beat me].\"> <{F} [said nothing|only smiled].> {day}, they wanted to {0}.",
        "<\"[Let us go|Ready, set, go]!\" said {F}.> {N} [laughed and was far ahead at once|did not even look where "
        "{he} "
        "went|hurried off]. [\"I will win!\" {he} called.|] But then {2}. <\"Ouch! [Help me|Can someone help me]!\" "
        "cried "
        "{N}.>",
        "/{F} [was slow, but careful|came step by step]. {Fhe} [could have won now|could go on and win], but {fhe} "
        "stopped. \"[Do not worry|Let me help you|Take my hand],\" said {F}. {Fhe} helped {N} [up|out] and [cleaned "
        "{his} "
        "knees|stayed with {him}].",
        "\"[Why did you stop?\" asked|You could have won,\" said] {N}. \"[A friend is more important than "
        "winning|Friends come "
        "first|I like you more than winning],\" said {F}. <{N} [felt ashamed|turned red].> \"I am sorry that I "
        "bragged,\" "
        "{he} said.",
        "/Then they went on to {0}, and this time they did it [side by side|together]. [{G} gave both of them a prize.|"
        "It was much more fun that way.] [{N} learned not to brag.|{N} learned that being kind is better than being "
        "first.]",
        "<{end}>" } },
    { "being tidy",
      SUBJECTS(untidy),
      { "{open} {meet}",
        "/The room of {N} was [a big mess|very messy]. <There were toys on the floor and clothes on the chair.> "
        "\"Please "
        "clean your room,\" said {G}. \"[Later|Not now|I will do it tomorrow],\" said {N}. <{He} said it every day.>",
        "{day}, {F} came to the door. \"[Come quick, there is a party|Come out, the fair is in town|We are going on a "
        "trip]!\" said {F}. {N} wanted to go, but first {he} needed the {0}. <{He} looked [here and there|left and "
        "right|up and down].> <It was nowhere.>",
        "/\"[I can not find my {0}!|Where is my {0}?]\" cried {N}. [\"I will be too late!\" |]<{F} looked around the "
        "room.> "
        "\"[You can not find anything here|No wonder|This is a lot of stuff],\" said {F}. \"Let us clean up. [I will "
        "help you|It is faster with two].\"",
        "They put the [toys in the box|books on the shelf] and the [clothes in the closet|pillows on the bed]. And "
        "there, "
        "{1}, was the {0}! <\"[Hooray|At last|There it is]!\" [said|shouted] {N}.>",
        "/They [ran as fast as they could|hurried out] and came just in time. <[They had a lot of fun.|It was a great "
        "day.]> {N} said, \"Thank you, {F}. [From now on, I will keep my room clean|I will never make such a mess "
        "again].\" <[And {he} did.|{G} was very happy about that.]>",
        "<{end}>" } },
};

const size_t ml_story_n_theme = sizeof ml_story_themes / sizeof ml_story_themes[0];

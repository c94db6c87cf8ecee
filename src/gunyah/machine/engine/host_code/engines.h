/* The engines that a helper serves: descriptions that begin with the address of their CPUARMState, by a hash of it. */

enum { ENGINES = 1024, PLACES = 8 };

static inline void *engine_of(void *const *all, const u8 *env)
{
    u64 first = ((u64)env >> 4) * 0x9e3779b97f4a7c15ull >> 54;
    for (int n = 0; n < PLACES; n++) {
        u64 *found = all[(first + n) & (ENGINES - 1)];
        if (found && *found == (u64)env)
            return found;
    }
    return 0;
}

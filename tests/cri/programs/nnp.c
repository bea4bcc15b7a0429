/* What the image nonewprivs runs: installed setuid root and started as another user, it tells whether the kernel honoured
 * the bit (no_new_privs forbids it, prctl(2)). The text is what critest compares with. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	return printf("Effective uid: %d\n", (int)geteuid()) < 0;
}

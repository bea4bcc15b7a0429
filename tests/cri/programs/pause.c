/* What the image pause runs: nothing, until it is told to end. As pid 1 of a namespace it is also the parent of orphans,
 * so it reaps them (SIGCHLD ignored: wait(2), "NOTES"). */
#include <signal.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(0);
}

int main(void)
{
	signal(SIGINT, end);
	signal(SIGTERM, end);
	signal(SIGCHLD, SIG_IGN);
	for (;;)
		pause();
}
